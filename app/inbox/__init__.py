"""The inbox: ids of messages already dealt with, per consumer, so that a repeat has no second effect."""
