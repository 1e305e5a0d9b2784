"""How good detections are: matching, average precision, kinds of errors, charts, reports."""
