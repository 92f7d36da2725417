"""The lab: a real Asterisk as the PBX, a second one as the rest of the world, on loopback.

Whatever the engine claims about Asterisk is shown here on the real thing. See `lab.Lab`.
"""
