"""What the real Asterisk says over ARI and AMI in every scenario, recorded; the simulator must say the same.

`make traces` records anew (`record`), `scenarios` are what is done, `normal` says which of it is kept,
`compare` names every difference, and `test_traces` judges the simulator by the recordings and the recordings by a
fresh one.
"""
