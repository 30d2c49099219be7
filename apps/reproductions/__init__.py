"""The tables, figures and theorems of both papers as items: what each needs, what it says, and whether it held."""
