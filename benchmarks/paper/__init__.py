"""The paper's tables, measured: recorded comparisons and the tables made from them."""
