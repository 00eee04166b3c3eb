"""The messages of `afdp.notary.v1`, generated into `afdp.pb` with their service, under a shorter path."""

from afdp.pb.afdp.notary.v1 import *
from afdp.pb.stubs.notary import *
