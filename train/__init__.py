"""Trains, attacks, purifies, measures and shows: binaries, and the rooms behind them.

A binary (`python -m train.evaluate`) turns its flags into one call and is imported by
nobody. A room imports from those above it in this list alone; tests/train/test_rooms.py
holds them to it:

    utils           errors, progress, devices, compilation, files
    records         storing results, provenance, schema, the paper's printed values
    data            loading, the authors' files, drawn shapes
    flags           the flags that binaries share
    models          the networks
    threats         the defended network, attacks and attackers
    recipes         losses and adversarial training
    training        loop, step, settings, checkpoints, cache of purified images
    networks        those of others, and the flags that name one
    present         tables, figures, pages
    files           purifying files
    evaluation      cells, plan, statistics
    demonstrations  quickstart, samples of the report
    reproductions   the paper's tables and figures
"""
