"""Node attestors: how an agent shows the server on which node it runs."""
