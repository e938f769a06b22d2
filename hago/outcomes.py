"""The possible outcomes of a search, as written in reports and devices.json."""

MET = "met"
NOT_FASTER = "not faster"
INCONCLUSIVE = "not told"
NOT_MET = "not met"
OUTCOMES = (MET, NOT_FASTER, INCONCLUSIVE, NOT_MET)
