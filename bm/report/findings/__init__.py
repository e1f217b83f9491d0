"""What is true of a run or an experiment: scores, verdicts, claims, and what stands behind them."""
