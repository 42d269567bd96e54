"""What people would train in place of this library, on the same rows and seeds: accuracy, time, device."""
