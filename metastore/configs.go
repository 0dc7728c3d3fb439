package metastore

import (
	"context"
	"fmt"
	"maps"
	"strconv"

	"github.com/twmb/franz-go/pkg/kerr"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// ConfigType is what a ConfigResource is, in the numbers of Kafka's protocol.
type ConfigType int8

// The types of resources whose configs are kept beside the topics' own.
const (
	BrokerConfigs ConfigType = 4
	ClientMetrics ConfigType = 16 // subscriptions of KIP-714
	GroupConfigs  ConfigType = 32
)

// ConfigResource names what configs belong to: a broker by its id in decimal
// ("" for the default of all brokers), a client-metrics subscription or a
// group by its name.
type ConfigResource struct {
	Type ConfigType
	Name string
}

func (r ConfigResource) String() string {
	switch r.Type {
	case BrokerConfigs:
		if r.Name == "" {
			return "all brokers"
		}
		return "broker " + r.Name
	case ClientMetrics:
		return "client metrics " + strconv.Quote(r.Name)
	case GroupConfigs:
		return "group " + strconv.Quote(r.Name)
	}
	return fmt.Sprintf("resource %q of type %d", r.Name, r.Type)
}

// known says whether configs of that type can be kept.
func (t ConfigType) known() bool {
	return t == BrokerConfigs || t == ClientMetrics || t == GroupConfigs
}

// SetConfigs is SetTopicConfigs for what is no topic: edit gets a copy of the
// resource's configs (empty when it has none) and gives what they are to be;
// none at all deletes the resource. It fails with kerr.InvalidConfig when the
// configs are too large, with kerr.PolicyViolation when there would be more
// than MaxConfigResources of the type (requests at the same moment may pass it
// by a few), with kerr.InvalidRequest for a name that is too long, or with
// kerr.NotController.
func (s *Store) SetConfigs(ctx context.Context, r ConfigResource, edit func(map[string]string) (map[string]string, error)) (revision int64, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("metastore: set configs of %v: %w", r, err)
		}
	}()
	if !r.Type.known() {
		return 0, fmt.Errorf("this type has no configs: %w", kerr.InvalidRequest)
	}
	if len(r.Name) > MaxResourceName {
		return 0, fmt.Errorf("the name has %d bytes, the limit is %d: %w", len(r.Name), MaxResourceName, kerr.InvalidRequest)
	}
	key := resourceKey(r)
	for {
		g, err := s.asBroker()
		if err != nil {
			return 0, err
		}
		resp, err := s.txn(ctx, "read_resource", nil, []clientv3.Op{
			clientv3.OpGet(key),
			clientv3.OpGet(resourcesOf(r.Type), clientv3.WithPrefix(), clientv3.WithCountOnly()),
		}, nil)
		if err != nil {
			return 0, err
		}
		kvs, count := resp.Responses[0].GetResponseRange().Kvs, resp.Responses[1].GetResponseRange().Count
		old, seen := map[string]string{}, int64(0)
		if len(kvs) > 0 {
			if old, err = decodeConfigs(kvs[0].Value); err != nil {
				return 0, err
			}
			seen = kvs[0].ModRevision
		}
		set, err := edit(maps.Clone(old))
		if err != nil {
			return 0, err
		}
		if maps.Equal(old, set) {
			return seen, nil
		}
		op := clientv3.OpDelete(key)
		if len(set) > 0 {
			value := encodeConfigs(set)
			limit := MaxResourceConfigBytes
			if r.Type == BrokerConfigs {
				limit = MaxConfigBytes
			}
			if len(value) > limit {
				return 0, fmt.Errorf("configs of %d bytes, the limit is %d: %w", len(value), limit, kerr.InvalidConfig)
			}
			if seen == 0 && count >= MaxConfigResources {
				return 0, fmt.Errorf("there are %d of them already, the limit is %d; delete some: %w", count, MaxConfigResources, kerr.PolicyViolation)
			}
			op = clientv3.OpPut(key, string(value))
		}
		ok, done, err := s.change(ctx, "set_resource", g, []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", seen)}, []clientv3.Op{op})
		if err != nil || ok {
			return done, err
		}
	}
}
