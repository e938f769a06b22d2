"""How a search can end: the names are written in reports and in devices.json."""

MET = "met"
NOT_FASTER = "not faster"
UNTOLD = "not told"
NOT_MET = "not met"
OUTCOMES = (MET, NOT_FASTER, UNTOLD, NOT_MET)
