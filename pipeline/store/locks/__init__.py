"""One writer at a time: locks on local disks, leases on object stores."""
