"""What the dashboard and the command line may ask for, part by part (see ``worker.client``)."""
