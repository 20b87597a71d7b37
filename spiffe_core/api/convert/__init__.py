"""Messages to values and back, in pairs ``x_from_pb`` / ``x_to_pb``, one noun a module.

Reading validates as SPIRE's API does and with its texts, and raises ``InvalidInput``; writing cannot fail for a
valid value.  A pair is inverse: what one writes, the other reads as it was.  A *mask* is the message of that
name; None chooses everything.  Times are Unix seconds on both sides.
"""
