package metastore

import (
	"context"
	"fmt"
	"math"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// MaxProducerIDs is the greatest number of producer ids taken at once.
const MaxProducerIDs = 1_000_000

// AllocateProducerIDs takes n producer ids, [first, first+n), that were never
// handed out before and never will be again: the counter is on disk before
// they are returned, so a crash loses ids but repeats none. n is from 1 to
// MaxProducerIDs.
func (s *Store) AllocateProducerIDs(ctx context.Context, n int64) (first int64, err error) {
	if n < 1 || n > MaxProducerIDs {
		return 0, fmt.Errorf("metastore: allocate %d producer ids, the limit is 1 to %d", n, MaxProducerIDs)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("metastore: allocate %d producer ids: %w", n, err)
		}
	}()
	// One at a time in this process; the compare is for the other ones.
	if err := acquire(ctx, s.ids); err != nil {
		return 0, err
	}
	defer func() { <-s.ids }()
	kv, err := s.get(ctx, producerIDKey)
	for {
		if err != nil {
			return 0, err
		}
		seen := int64(0)
		first = 0
		if kv != nil {
			seen = kv.ModRevision
			if first, err = decodeProducerID(kv.Value); err != nil {
				return 0, fmt.Errorf("key %q: %w", producerIDKey, err)
			}
		}
		if first > math.MaxInt64-n {
			return 0, fmt.Errorf("only %d are left", math.MaxInt64-first)
		}
		resp, terr := s.txn(ctx, "producer_ids",
			[]clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(producerIDKey), "=", seen)},
			[]clientv3.Op{clientv3.OpPut(producerIDKey, string(encodeProducerID(first+n)))}, nil)
		if terr != nil {
			return 0, terr
		}
		if resp.Succeeded {
			return first, nil
		}
		kv, err = s.get(ctx, producerIDKey)
	}
}
