"""Tables, figures and pages of the experiments."""
