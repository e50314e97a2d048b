"""Run a training script whose processes start as forks: they import nothing, as those of a real start (spawn) do.

forked_processes.py workflow_scripts/train.py --processes 2 ...
"""

import functools
import os
import runpy
import sys

from torch.distributed.launcher import api

api.LaunchConfig = functools.partial(api.LaunchConfig, start_method="fork")
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
