"""``fpo-ros bench``: figures beside their baselines."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from fpo_ros.options import AsJson, Observation, Seed, Variant, display_of

app = typer.Typer(no_args_is_help=True, help='Measure speed and memory, each beside a named baseline of the same run.')


@app.command()
def sim(quick: Annotated[bool, typer.Option('--quick', help='Small numbers: shows that it works, measures nothing '
                                            'worth keeping.')] = False,
        growth: Annotated[Path | None, typer.Option(
            help='Measure also how speed grows with worlds (1 to 1,024) and threads, and write the plot here: .png or '
                 '.svg.', show_default=False)] = None,
        check: Annotated[bool, typer.Option('--check', help='Fail when a ratio falls short of what docs/benchmarks.md '
                                            'promises for two cores.')] = False,
        as_json: AsJson = False) -> None:
    """Physics, pictures and memory of worlds.

    Beside gym-aloha and MuJoCo's own limit; takes about 4 minutes.
    """
    from fpo_ros.bench import simulation

    _check_picture(growth)
    display = display_of(as_json)
    found = simulation.measure(simulation.QUICK if quick else simulation.Sizes(), display.line)
    if growth is not None:
        from fpo_ros.bench.plot import plot_growth

        display.line('growth with worlds and threads')
        worlds = (1, 16) if quick else (1, 4, 16, 64, 256, 1024)
        found['growth'] = simulation.growth(worlds, tuple(range(1, simulation.cores() + 1)), display.line)
        plot_growth(found['growth'], growth)
        display.line(f'plot in {growth}')
    for name, ours, baseline in simulation.RATIOS:
        display.line(f'{name.replace("_", " ")}: {found[name]:.2f} ({ours} {found[ours]:,.2f}, '
                     f'{baseline} {found[baseline]:,.2f})')
    display.line(f'{found["bytes_per_world"] / 1e3:,.0f} kB per world, 1,024 worlds in '
                 f'{found["peak_bytes_1024_worlds"] / 1e9:.2f} GB')
    _end(found, as_json, simulation.broken_promises(found) if check else [])


@app.command()
def experts(episodes: Annotated[int, typer.Option(min=1, help='Scenes, from 0 on, for each task and error.')] = 200,
            check: Annotated[bool, typer.Option('--check', help='Fail when an expert without errors succeeds less '
                                                'often than docs/benchmarks.md promises.')] = False,
            as_json: AsJson = False) -> None:
    """Success of the scripted experts.

    With and without errors of a demonstrator; takes about 5 minutes.
    """
    from fpo_ros.bench import experts as bench

    display = display_of(as_json)
    results = bench.measure(episodes, lambda one: display.line(
        f'{one.task} with errors of {one.noise_m * 1e3:g} mm: {one.successes} of {one.episodes} succeeded '
        f'({one.wilson_low:.1%} to {one.wilson_high:.1%}), {one.successes_strict} by the strict rule'))
    _end({'experts': results}, as_json, bench.broken_promises(results) if check else [])


@app.command()
def policy(variant: Variant = 'pi0_tiny',
           samples: Annotated[int | None, typer.Option(min=1, help='Rounds, in each of which everything compared '
                                                       'makes a chunk.',
                                                       show_default='300, or 60 of pi0_small')] = None,
           provider: Annotated[str, typer.Option(help='What runs the exported graphs: cpu, cuda, tensorrt, '
                                                 'tensorrt_refit or auto.')] = 'cpu',
           growth: Annotated[Path | None, typer.Option(
               help='Measure also how the time of a chunk grows with cameras, chunk length, flow steps and batch, and '
                    'write the plot here: .png or .svg.', show_default=False)] = None,
           check: Annotated[bool, typer.Option('--check', help='Fail when a ratio falls short of what '
                                               'docs/benchmarks.md promises for the CPU.')] = False,
           as_json: AsJson = False) -> None:
    """Time of a chunk of an exported policy.

    Beside torch, beside no cached prefix, through the policy node, and while policies change; one thread each. Takes
    about a minute, of pi0_small 5.
    """
    from fpo_ros.bench import policy as bench

    _check_picture(growth)
    display = display_of(as_json)
    found = bench.measure(variant, samples, provider, report=display.line)
    short = bench.broken_promises(found) if check else []
    if growth is not None:
        from fpo_ros.bench.plot import plot_latencies
        from fpo_ros.bench.policy_growth import measure_growth

        found['growth'] = measure_growth(variant, provider, display.line)
        plot_latencies(found['growth'], growth)
        display.line(f'plot in {growth}')
    for line in bench.in_words(found):
        display.line(line)
    _end(found, as_json, short)


@app.command('pi0')
def pi0_(preset: Annotated[str, typer.Option(help='Sizes: pi0, pi0_small or pi0_tiny.')] = 'pi0',
         directory: Annotated[Path | None, typer.Option(
             help='Where the checkpoint lies meanwhile; pi0 takes 7 GB, and 14 more when it is exported.',
             show_default="the system's directory for temporary files")] = None,
         export: Annotated[str | None, typer.Option(help='Export it, too, and run that: float32 or float16.',
                                                    show_default='no export')] = None,
         threads: Annotated[int, typer.Option(min=1, help='Threads of torch and ONNX Runtime.')] = 1,
         check: Annotated[bool, typer.Option('--check', help='Fail when a whole pi0 takes more memory than '
                                             'docs/benchmarks.md promises.')] = False,
         as_json: AsJson = False) -> None:
    """Time and memory of loading and sampling a whole pi0 with random weights.

    Beside plain reading of its file and its bare matrix products; takes minutes.
    """
    from fpo_ros.bench import pi0 as bench
    from fpo_ros.bench import pi0_export
    from fpo_ros.policy.config import PRESETS
    from fpo_ros.runtime.export_trace import PRECISIONS

    if preset not in PRESETS:
        raise ValueError(f"unknown preset '{preset}': use {' or '.join(PRESETS)}")
    if export is not None and export not in PRECISIONS:
        raise ValueError(f"unknown precision '{export}': use {' or '.join(PRECISIONS)}")
    display = display_of(as_json)
    with tempfile.TemporaryDirectory(dir=directory, prefix='fpo_ros-pi0-') as place:
        found = bench.measure(Path(place), preset, threads)
        display.line(f'{found["parameters"]:,} parameters, a file of {found["file_bytes"] / 1e9:.2f} GB: loaded in '
                     f'{found["load_s"]:.1f} s (plain reading {found["plain_read_s"]:.1f} s), peak memory '
                     f'{found["peak_bytes"] / 1e9:.2f} GB')
        display.line(f'a chunk in {found["chunk_s"]:.2f} s: prefix {found["prefix_s"]:.2f} s, a step '
                     f'{found["step_s"]:.3f} s; {found["prefix_over_products"]:.2f} and '
                     f'{found["step_over_products"]:.2f} times the bare products')
        if export is not None:
            found |= pi0_export.measure(Path(place), preset, export, threads)
            display.line(f'{export}: exported in {found["export_s"]:.1f} s, peak memory '
                         f'{found["export_peak_bytes"] / 1e9:.2f} GB; a chunk in ONNX Runtime '
                         f'{found["onnx_chunk_s"]:.2f} s, peak memory {found["onnx_peak_bytes"] / 1e9:.2f} GB')
    _end(found, as_json, bench.broken_promises(found) if check else [])


@app.command()
def chunks(policy: Annotated[Path, typer.Option(help='Directory of the policy, or the name of a shipped one.')] = Path(
               'fpo_state'),
           episodes: Annotated[int, typer.Option(min=1, help='Held-out scenes of each.')] = 200,
           delays: Annotated[str, typer.Option(help='From an observation to its chunk [ms], '
                                               'comma-separated.')] = '0,60,120,200,300',
           methods: Annotated[str | None, typer.Option(
               help='How chunks are joined, comma-separated: synchronous, ensemble, newest, realtime; trained, by a '
                    'policy that was trained to go on from the chunk before.', show_default='all')] = None,
           check: Annotated[bool, typer.Option('--check', help='Fail where real-time chunking loses more success than '
                                               'docs/benchmarks.md promises; needs realtime at 0 ms, too.')] = False,
           seed: Seed = 0, as_json: AsJson = False) -> None:
    """Success and jerk in simulation when chunks come late, by the rule that joins them.

    Chunks must be longer than twice the delay to be bridged; takes about half a minute for each.
    """
    from fpo_ros.bench import chunks as bench
    from fpo_ros.policy.checkpoint import FlowPolicy

    try:
        late = [float(word) for word in delays.split(',')]
    except ValueError as error:
        raise ValueError(f'--delays {delays}: use milliseconds, comma-separated, such as 0,60,120') from error
    display = display_of(as_json)
    chosen = None if methods is None else [word.strip() for word in methods.split(',')]
    found = bench.measure(FlowPolicy.load(policy), episodes, late, chosen, seed,
                          report=lambda one: display.line(bench.in_words(one)))
    _end({'policy': str(policy), 'chunks': found}, as_json, bench.broken_promises(found) if check else [])


@app.command()
def safety(policy: Annotated[Path, typer.Option(help='Directory of a policy of states, or the name of a shipped '
                                                'one.')] = Path('fpo_state'),
           episodes: Annotated[int, typer.Option(min=1, help='Held-out scenes, with and without.')] = 50,
           acceleration: Annotated[float, typer.Option(min=0, help='Limit of a joint [rad/s^2]; 0: none.')] = 200.0,
           jerk: Annotated[float, typer.Option(min=0, help='Limit of a joint [rad/s^3]; 0: none.')] = 0.0,
           tcp_speed: Annotated[float, typer.Option(min=0, help='Limit of a tool [m/s]; 0: none.')] = 2.5,
           joint_speed: Annotated[float, typer.Option(min=0.01, help='Limit of a joint [rad/s]; grippers: twice as '
                                                      'many strokes/s.')] = 2.0,
           check: Annotated[bool, typer.Option('--check', help='Fail when the filter takes longer than '
                                               'docs/benchmarks.md promises.')] = False,
           seed: Seed = 0, as_json: AsJson = False) -> None:
    """What the safety filter changes, and what it costs.

    The same scenes with position and speed limits alone and with the whole filter.
    """
    from fpo_ros.bench import safety as bench
    from fpo_ros.policy.checkpoint import FlowPolicy
    from fpo_ros.policy.limits import JointLimits
    from fpo_ros.runtime.safety_config import SafetyConfig, per_column

    config = SafetyConfig(acceleration=acceleration, gripper_acceleration=2 * acceleration, jerk=jerk,
                          tcp_speed=tcp_speed)
    display = display_of(as_json)
    found = bench.measure(FlowPolicy.load(policy), episodes, config,
                          JointLimits(speed=per_column(joint_speed, 2 * joint_speed)), seed, report=display.line)
    display.line(f'the whole filter takes {found["cost_ratio_p50"]:.1f} times as long, p99 '
                 f'{found["cost_ratio_p99"]:.1f} times')
    _end({'policy': str(policy)} | found, as_json, bench.broken_promises(found) if check else [])


@app.command()
def graph(seconds: Annotated[float, typer.Option(min=1.0, help='How long the graph runs, and then the cameras '
                                                 '[s].')] = 60.0,
          plot: Annotated[Path | None, typer.Option(
              help='Draw the latency from observation to command by stages here: .png or .svg.',
              show_default=False)] = None,
          check: Annotated[bool, typer.Option('--check', help='Fail when a figure misses a bound of '
                                              'docs/benchmarks.md.')] = False,
          as_json: AsJson = False) -> None:
    """The running graph beside bare nodes of the same run.

    Pace of commands, latency by stages, camera ingestion, and how soon the arms hold: simulated arms, the shipped
    policy fpo_state, and after it four replayed cameras. Takes a minute more than twice --seconds.
    """
    _check_picture(plot)
    try:
        from fpo_ros.bench import graph as bench
    except ImportError as error:
        raise RuntimeError(f'ROS 2 is not importable ({error}): run "fpo-ros doctor"') from error
    from fpo_ros.bench.graph_figures import verdicts
    from fpo_ros.bench.policy import released
    from fpo_ros.policy.checkpoint import FlowPolicy

    display = display_of(as_json)
    with tempfile.TemporaryDirectory(prefix='fpo_ros-bench-') as place:
        display.line('exporting fpo_state')
        release, = released(FlowPolicy.load('fpo_state'), Path(place), copies=1)
        run = bench.measure(seconds, release.path, Path(place) / 'keys', display)
    for line in bench.in_words(run):
        display.line(line)
    judged = verdicts(run.figures)
    for one in judged:
        display.line(f'{"kept" if one.kept else "MISSED":<6} {one.what}: {one.measured} (bound: {one.bound})')
    if plot is not None:
        from fpo_ros.bench.plot import plot_stages

        plot_stages(run.stages, plot)
        display.line(f'plot in {plot}')
    missed = [f'{one.what}: {one.measured}, the bound is {one.bound}' for one in judged if not one.kept]
    _end(run.figures, as_json, missed if check else [])


@app.command()
def learn(observation: Observation = 'state',
          growth: Annotated[Path | None, typer.Option(
              help='Write a plot of the time of an iteration over its episodes here: .png or .svg.',
              show_default=False)] = None,
          check: Annotated[bool, typer.Option('--check', help='Fail when a figure falls short of what '
                                              'docs/benchmarks.md promises for two cores.')] = False,
          as_json: AsJson = False) -> None:
    """Time of an iteration of FPO, and what its cached prefix spares.

    Of pi0_tiny, untrained; takes about 2 minutes.
    """
    from fpo_ros.bench import learning

    _check_picture(growth)
    display = display_of(as_json)
    found = learning.measure(observation, learning.FULL, display.line)
    if growth is not None:
        from fpo_ros.bench.plot import plot_iterations

        plot_iterations(found['iterations'], growth)
        display.line(f'plot in {growth}')
    for name, ours, baseline in learning.RATIOS:
        reached = 'at least' if found[name] >= learning.AIM else 'short of'
        display.line(f'{name.replace("_", " ")}: {found[name]:.2f}, {reached} {learning.AIM} (chunk-samples/s: '
                     f'{found[ours]:,.0f}, {found[baseline]:,.0f})')
    _end(found, as_json, learning.broken_promises(found) if check else [])


@app.command('episodes')
def episodes_(episodes: Annotated[int, typer.Option(min=1, help='Episodes to write and to read.')] = 200,
              directory: Annotated[Path | None, typer.Option(
                  help='On the disk to measure: the episodes lie there meanwhile.',
                  show_default="the system's directory for temporary files")] = None,
              check: Annotated[bool, typer.Option('--check', help='Fail when reading takes longer than '
                                                  'docs/benchmarks.md promises.')] = False,
              as_json: AsJson = False) -> None:
    """Time of writing and reading episodes.

    Beside NumPy's files of the same arrays and zarr's reader; takes seconds, longer where the disk is busy.
    """
    from fpo_ros.bench import episodes as bench

    display = display_of(as_json)
    found = bench.measure(episodes, directory, display.line)
    for line in bench.in_words(found):
        display.line(line)
    _end(found, as_json, bench.broken_promises(found) if check else [])


def _end(found: Any, as_json: bool, short: list[str]) -> None:
    """Print what was found as JSON, and fail where promises are broken.

    :raises RuntimeError: naming all of them.
    """
    if as_json:
        print(json.dumps(found), flush=True)
    if short:
        raise RuntimeError('; '.join(short))


def _check_picture(path: Path | None) -> None:
    """Refuse the name of a plot that cannot be drawn."""
    if path is not None and path.suffix not in ('.png', '.svg'):
        raise ValueError(f'{path} is no name of a picture: end it in .png or .svg')
