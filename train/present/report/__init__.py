"""The report: everything in results/ as one HTML page that needs nothing else."""
