//! VIP placement and the hosts block.
