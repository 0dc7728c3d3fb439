package metastore

import (
	"bytes"
	"context"
	"fmt"
	"iter"

	"github.com/firnlog/firn/record"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const tierPage = 128 // pointers per read of TierPointers, at most 8 MiB

// TierPointer is tiering's opaque value for one partition.
type TierPointer struct {
	Value    []byte // ≤ MaxTierPointer
	Revision int64  // of the last write; 0 when there is none yet
}

// TierPointerEntry is one stored pointer and whose it is.
type TierPointerEntry struct {
	ID        record.TopicID
	Partition record.PartitionID
	TierPointer
}

// TierPointer reads a partition's pointer. Without one, Revision is 0 and that
// is no error.
func (s *Store) TierPointer(ctx context.Context, id record.TopicID, p record.PartitionID) (TierPointer, error) {
	if p < 0 {
		return TierPointer{}, fmt.Errorf("metastore: tier pointer of %s-%d: negative partition", id, p)
	}
	kv, err := s.get(ctx, tierKey(id, p))
	if err != nil {
		return TierPointer{}, fmt.Errorf("metastore: tier pointer of %s-%d: %w", id, p, err)
	}
	if kv == nil {
		return TierPointer{}, nil
	}
	return TierPointer{Value: kv.Value, Revision: kv.ModRevision}, nil
}

// CommitTierPointer replaces a partition's pointer and gives its new revision.
// It fails with ErrConflict, and writes nothing, when the pointer's revision
// is not expect (0: there is none), when the partition does not exist any
// more, or when its leader epoch is not epoch: then somebody else may be
// committing for it. After another error the pointer may have been written;
// read it again.
func (s *Store) CommitTierPointer(ctx context.Context, id record.TopicID, p record.PartitionID, expect int64, epoch record.Epoch, value []byte) (revision int64, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("metastore: commit tier pointer of %s-%d: %w", id, p, err)
		}
	}()
	if p < 0 {
		return 0, fmt.Errorf("%w: negative partition", ErrConflict)
	}
	if len(value) > MaxTierPointer {
		return 0, fmt.Errorf("%d bytes, the limit is %d", len(value), MaxTierPointer)
	}
	part, err := s.get(ctx, partitionKey(id, p))
	for {
		if err != nil {
			return 0, err
		}
		if err := leaderEpochIs(part, epoch); err != nil {
			metricPointerClash.Inc()
			return 0, err
		}
		// The topic key too: a partition without it is not one yet.
		resp, terr := s.txn(ctx, "commit_pointer", []clientv3.Cmp{
			clientv3.Compare(clientv3.ModRevision(tierKey(id, p)), "=", expect),
			clientv3.Compare(clientv3.ModRevision(partitionKey(id, p)), "=", part.ModRevision),
			clientv3.Compare(clientv3.CreateRevision(topicKey(id)), ">", 0),
		}, []clientv3.Op{
			clientv3.OpPut(tierKey(id, p), string(value)),
		}, []clientv3.Op{
			clientv3.OpGet(tierKey(id, p)),
			clientv3.OpGet(partitionKey(id, p)),
			clientv3.OpGet(topicKey(id), clientv3.WithKeysOnly()),
		})
		if terr != nil {
			return 0, terr
		}
		if resp.Succeeded {
			return resp.Header.Revision, nil
		}
		if kv := first(resp.Responses[0].GetResponseRange().Kvs); resp.unsure && kv != nil && bytes.Equal(kv.Value, value) {
			return kv.ModRevision, nil // by an attempt whose answer did not come
		}
		if err := pointerConflict(resp, expect); err != nil {
			metricPointerClash.Inc()
			return 0, err
		}
		// Only the partition's value changed, perhaps its ISR: look again.
		part = first(resp.Responses[1].GetResponseRange().Kvs)
	}
}

// pointerConflict says why a commit failed, or nil when only the partition key
// was another one.
func pointerConflict(resp outcome, expect int64) error {
	now := int64(0)
	if kv := first(resp.Responses[0].GetResponseRange().Kvs); kv != nil {
		now = kv.ModRevision
	}
	if now != expect {
		return fmt.Errorf("%w: pointer is at revision %d, not %d", ErrConflict, now, expect)
	}
	if first(resp.Responses[2].GetResponseRange().Kvs) == nil {
		return fmt.Errorf("%w: topic does not exist", ErrConflict)
	}
	return nil
}

func leaderEpochIs(kv *mvccpb.KeyValue, epoch record.Epoch) error {
	if kv == nil {
		return fmt.Errorf("%w: partition does not exist", ErrConflict)
	}
	part, err := decodePartition(kv.Value)
	if err != nil {
		return fmt.Errorf("key %q: %w", kv.Key, err)
	}
	if part.Epoch != epoch {
		return fmt.Errorf("%w: leader epoch is %d, not %d", ErrConflict, part.Epoch, epoch)
	}
	return nil
}

func first(kvs []*mvccpb.KeyValue) *mvccpb.KeyValue {
	if len(kvs) == 0 {
		return nil
	}
	return kvs[0]
}

// DeleteTierPointer deletes a partition's pointer, whether or not the topic
// still exists. It fails with ErrConflict when the pointer's revision is not
// expect.
func (s *Store) DeleteTierPointer(ctx context.Context, id record.TopicID, p record.PartitionID, expect int64) error {
	if p < 0 || expect <= 0 {
		return fmt.Errorf("metastore: delete tier pointer of %s-%d at revision %d: %w", id, p, expect, ErrConflict)
	}
	resp, err := s.txn(ctx, "delete_pointer",
		[]clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(tierKey(id, p)), "=", expect)},
		[]clientv3.Op{clientv3.OpDelete(tierKey(id, p))},
		[]clientv3.Op{clientv3.OpGet(tierKey(id, p), clientv3.WithKeysOnly())})
	if err == nil && !resp.Succeeded && (!resp.unsure || first(resp.Responses[0].GetResponseRange().Kvs) != nil) {
		metricPointerClash.Inc()
		err = fmt.Errorf("%w: pointer is not at revision %d", ErrConflict, expect)
	}
	if err != nil {
		return fmt.Errorf("metastore: delete tier pointer of %s-%d: %w", id, p, err)
	}
	return nil
}

// TierPointers lists all pointers by topic id and partition, also those of
// topics that were deleted. It reads page by page: what changes meanwhile may
// be seen before or after the change. An error ends the list.
func (s *Store) TierPointers(ctx context.Context) iter.Seq2[TierPointerEntry, error] {
	return s.tierPointers(ctx, tierPrefix)
}

// TierPointersOf lists the pointers of one topic, as TierPointers does.
func (s *Store) TierPointersOf(ctx context.Context, id record.TopicID) iter.Seq2[TierPointerEntry, error] {
	return s.tierPointers(ctx, tierKeysOf(id))
}

func (s *Store) tierPointers(ctx context.Context, prefix string) iter.Seq2[TierPointerEntry, error] {
	return func(yield func(TierPointerEntry, error) bool) {
		key, end := prefix, clientv3.GetPrefixRangeEnd(prefix)
		for {
			var resp *clientv3.GetResponse
			_, err := try(ctx, s.srv, func(ctx context.Context) (err error) {
				resp, err = s.srv.cli.Get(ctx, key, clientv3.WithRange(end), clientv3.WithLimit(tierPage))
				return err
			})
			if err != nil {
				yield(TierPointerEntry{}, fmt.Errorf("metastore: list tier pointers: %w", s.callError(err)))
				return
			}
			for _, kv := range resp.Kvs {
				id, p, err := parseTierKey(string(kv.Key))
				if err != nil {
					yield(TierPointerEntry{}, fmt.Errorf("metastore: list tier pointers: %w", err))
					return
				}
				if !yield(TierPointerEntry{ID: id, Partition: p, TierPointer: TierPointer{Value: kv.Value, Revision: kv.ModRevision}}, nil) {
					return
				}
				key = string(kv.Key) + "\x00"
			}
			if !resp.More {
				return
			}
		}
	}
}
