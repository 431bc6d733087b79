"""What a run says about itself: metrics, recorded rollouts, trackers, reports."""
