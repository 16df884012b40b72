"""Scores of stored pairs, offline: inputs cut into partitions, each scored once, its scores in a file of its own.

`inputs` says what is to be scored, `folder` what is there already, `work` scores one partition with an engine. What
runs the partitions side by side, Ray Data, is deployments/batch.py: nothing here knows Ray.
"""
