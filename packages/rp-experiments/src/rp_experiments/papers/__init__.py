"""Every table, figure, theorem and claim of both papers: what each is made from, and what was found."""
