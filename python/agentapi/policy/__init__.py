"""What of a workspace's tools a principal may see and call."""
