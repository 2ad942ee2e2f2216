"""Layer 6, without torch: results to tables and pages."""
