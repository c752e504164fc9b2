"""Measurements of the programs' cost, compared with the budgets of the project. Not part of any installation."""
