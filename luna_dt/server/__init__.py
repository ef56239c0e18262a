"""Any catalog served as the REST contract: guard, answers, routes (app)."""
