"""What runs and data tell: diagnoses, other rewards, curricula, grids."""
