"""What has workers started on a cluster."""
