"""The paper's tables and figures, one name each, and what they are measured with."""
