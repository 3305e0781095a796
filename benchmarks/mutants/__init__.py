"""Random mutants of healthy training recipes: which broken ones are repaired, and which others harmed?"""
