"""Work that goes on without a request: queued jobs and periodic ones, done once among all processes."""
