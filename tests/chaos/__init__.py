"""What becomes of people's calls when processes are killed and wires are cut, counted on the real thing.

`python -m tests.chaos` (or `make chaos`) runs every scenario and prints its figures; `test_short.py` runs a small
one with every `make test`. A scenario kills, cuts or stops something under load and then asks the world, Redis
and the log for one story (`ledger`): what does not fit into it is printed with all that is known of it.
"""
