"""Parts for evo: hill climbing, agreement with the original network, and geometric medians."""
