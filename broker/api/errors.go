package api

import (
	"errors"
	"fmt"
	"math"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/broker/topicconfig"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// codeOf gives the Kafka code to answer err with.
func codeOf(err error) int16 {
	if err == nil {
		return 0
	}
	var ke *kerr.Error
	if errors.As(err, &ke) {
		return ke.Code
	}
	if ended(err) {
		return kerr.RequestTimedOut.Code
	}
	return kerr.UnknownServerError.Code
}

// messageOf gives the text to answer err with, nil for no error. What has no
// Kafka code is internal (paths, addresses) and not told.
func messageOf(err error) *string {
	if err == nil {
		return nil
	}
	var ke *kerr.Error
	var s string
	var ae *apiError
	var ce *topicconfig.Error
	switch {
	case errors.As(err, &ae):
		s = ae.msg
	case errors.As(err, &ce):
		s = ce.Error() // without the layers that it came through
	case !errors.As(err, &ke):
		s = kerr.ErrorForCode(codeOf(err)).(*kerr.Error).Description
	case ke == kerr.KafkaStorageError:
		s = ke.Description
	case err == error(ke):
		s = ke.Description
	default:
		s = err.Error()
	}
	return &s
}

// apiError is an error for a client: a code and our own words.
type apiError struct {
	kind *kerr.Error
	msg  string
}

func (e *apiError) Error() string { return e.msg }
func (e *apiError) Unwrap() error { return e.kind }

func fail(kind *kerr.Error, format string, args ...any) error {
	return &apiError{kind, fmt.Sprintf(format, args...)}
}

// unset is what authorized operations are when nobody asked for them.
const unset = math.MinInt32

// Bits of ACL operations (KIP-430), all of those that apply to a resource:
// there are no ACLs yet, so that everybody may do everything.
const (
	topicOperations   = 1<<3 | 1<<4 | 1<<5 | 1<<6 | 1<<7 | 1<<8 | 1<<10 | 1<<11
	clusterOperations = 1<<5 | 1<<7 | 1<<8 | 1<<9 | 1<<10 | 1<<11 | 1<<12
	groupOperations   = 1<<3 | 1<<6 | 1<<8 | 1<<10 | 1<<11
)

func operations32(asked bool, ops int32) int32 {
	if asked {
		return ops
	}
	return unset
}

// open finds an open partition of topic t, which is nil for one that does not
// exist.
func (a *API) open(t *metastore.Topic, p int32) (*partition.Partition, error) {
	if t == nil || p < 0 || int(p) >= len(t.Partitions) {
		return nil, kerr.UnknownTopicOrPartition
	}
	part := a.deps.Partitions.Get(t.Name, record.PartitionID(p))
	if part == nil || part.TopicID() != t.ID {
		if err := a.deps.Partitions.OpenError(t.Name, record.PartitionID(p)); err != nil {
			return nil, fmt.Errorf("%w: %w", kerr.KafkaStorageError, err)
		}
		return nil, kerr.NotLeaderForPartition
	}
	return part, nil
}

// lead gives a partition that this broker leads, as what clients ask of it has
// to go to its leader.
func (a *API) lead(t *metastore.Topic, p int32) (*partition.Partition, error) {
	return a.leadAt(t, p, -1)
}

// leadAt is lead for a client that believes in leader epoch epoch, -1 for any
// (KIP-320).
func (a *API) leadAt(t *metastore.Topic, p, epoch int32) (*partition.Partition, error) {
	part, err := a.open(t, p)
	if err == nil {
		err = part.Answers(record.Epoch(epoch), false)
	}
	if err != nil {
		return nil, err
	}
	return part, nil
}

// checkEpoch compares the leader epoch that a client believes in with the
// partition's (KIP-320); -1 is not compared.
func checkEpoch(client int32, leader record.Epoch) error {
	switch {
	case client == -1 || record.Epoch(client) == leader:
		return nil
	case record.Epoch(client) < leader:
		return kerr.FencedLeaderEpoch
	}
	return kerr.UnknownLeaderEpoch
}
