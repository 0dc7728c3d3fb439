package api

import "github.com/twmb/franz-go/pkg/kmsg"

// ListPartitionReassignments, version 0, flexible (KIP-455). No partition
// moves, and what does not move is not listed, whether it exists or not.
func (a *API) listPartitionReassignments(c *call) {
	c.send(response[*kmsg.ListPartitionReassignmentsResponse](c))
}
