"""Flows tab of Flower, and the graph of a flow as a picture."""
