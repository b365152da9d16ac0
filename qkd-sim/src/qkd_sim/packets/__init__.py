"""packets - what the two sides of the link keep and send, one packet per epoch, types 1 to 4.

======  ===========  ======================================================
type    side         holds
======  ===========  ======================================================
1       high count   raw events of an epoch, as recorded
2       low count    times and bases, compressed; sent to the high side
3       either       results or sifted key, bit-packed; kept
4       high count   which type-2 entries were kept; sent to the low side
======  ===========  ======================================================

All words are 32 bits, little-endian; a stream of bits fills them from the
highest place. A packet of an epoch is a file named after the epoch, or one of
many in a stream.
"""

from qkd_sim.packets.packet import Packet
from qkd_sim.packets.type1 import Type1
from qkd_sim.packets.type2 import Type2
from qkd_sim.packets.type3 import Type3
from qkd_sim.packets.type4 import Type4

__all__ = ["Packet", "Type1", "Type2", "Type3", "Type4"]
