"""The page: a local web application in which a person traces, reads and tests a circuit."""
