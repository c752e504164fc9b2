"""Measurements: what the programs cost, against the budgets of the project. No part of any installation."""
