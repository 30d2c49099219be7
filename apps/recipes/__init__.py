"""Recipes: full configurations of the apps, derived from one another."""
