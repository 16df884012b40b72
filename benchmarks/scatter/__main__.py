"""Run the experiments and write their JSON and the plot.

python -m benchmarks.scatter [--only NAME ...] [--quick] [--out FILE]
"""

from benchmarks import plots
from benchmarks.results import run_experiments
from benchmarks.scatter import disconnects, fairness, kills, overload, placement, scaling, shadows

EXPERIMENTS = {
    one.__name__.rpartition(".")[2]: one.run
    for one in (placement, scaling, overload, disconnects, fairness, kills, shadows)
}

if __name__ == "__main__":
    raise SystemExit(run_experiments(__doc__, EXPERIMENTS, "scatter.json", plots.draw_scaling))
