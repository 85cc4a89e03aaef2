"""Retrieval, zero-shot and probing figures of a model, with reports and plots."""
