package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/objectstore"
)

// cluster says how this broker takes part in a cluster, nil without seeds.
func (b *Broker) cluster() *metastore.Cluster {
	if len(b.cfg.Seeds) == 0 {
		return nil
	}
	return &metastore.Cluster{Seeds: b.cfg.Seeds, Peer: b.cfg.Peer, Client: b.cfg.PeerClient, Claim: claim{b.store}}
}

// claim keeps what the brokers of a cluster agree on in the object store that
// they share.
type claim struct{ store objectstore.Store }

const maxClaim = 64 << 10 // bytes of such a value

func (c claim) PutIfAbsent(ctx context.Context, name string, value []byte) (existing []byte, err error) {
	_, err = c.store.Put(ctx, name, bytes.NewReader(value), int64(len(value)))
	if !errors.Is(err, objectstore.ErrExists) {
		return nil, err
	}
	existing, err = c.Get(ctx, name)
	if err == nil && existing == nil {
		err = fmt.Errorf("%s was there and is gone", name)
	}
	return existing, err
}

func (c claim) Get(ctx context.Context, name string) ([]byte, error) {
	r, err := c.store.GetRange(ctx, name, 0, -1)
	if errors.Is(err, objectstore.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer r.Close()
	raw, err := io.ReadAll(io.LimitReader(r, maxClaim))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return raw, nil
}
