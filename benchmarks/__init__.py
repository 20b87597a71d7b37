"""How fast Steeple is, in ratios that hold on any machine: to a raw C_Sign, and to grpcio alone, in one run.

``python -m benchmarks`` starts what it measures, real servers on a SoftHSM token, and prints tables; ``--write``
puts them into ``benchmarks/README.md``.
"""
