"""Planning: forecasts of time, memory, cost and loss, and the choice of model, batch size and length for a budget."""
