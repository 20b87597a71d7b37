"""What a Steeple process is made of: configuration, log, clock, tasks, lanes, and the gRPC plumbing."""
