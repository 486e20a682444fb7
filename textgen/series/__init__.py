"""Forecasting: what comes next in a series of numbers, by the cells and the loop that write text."""
