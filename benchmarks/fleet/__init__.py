"""A fleet of replicas as discrete events: our placement, planning, fairness and scaling code, on an imagined clock."""
