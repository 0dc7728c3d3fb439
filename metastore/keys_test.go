package metastore

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/firnlog/firn/record"
	"pgregory.net/rapid"
)

var (
	genNumber = rapid.OneOf(rapid.Int32Range(0, 20), rapid.Int32Range(0, math.MaxInt32))
	genName   = rapid.StringMatching(`[a-zA-Z0-9._/-]{1,40}`) // '/' too: a name ends its key
	genText   = rapid.StringN(0, 20, 60)
)

func genID(t *rapid.T) record.TopicID {
	return record.TopicID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
}

func genResource(t *rapid.T) ConfigResource {
	return ConfigResource{
		rapid.SampledFrom([]ConfigType{BrokerConfigs, ClientMetrics, GroupConfigs}).Draw(t, "type"),
		rapid.OneOf(rapid.Just(""), genName, genText).Draw(t, "resource"),
	}
}

func genBrokers(t *rapid.T, name string) []record.BrokerID {
	ids := rapid.SliceOfN(rapid.Map(genNumber, func(n int32) record.BrokerID { return record.BrokerID(n) }), 0, 7).Draw(t, name)
	if len(ids) == 0 {
		return nil // as it is decoded
	}
	return ids
}

// Every key that is watched is read back as what it was made from.
func TestKeysRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id, n := genID(t), genNumber.Draw(t, "n")
		p, b := record.PartitionID(n), record.BrokerID(n)
		r := genResource(t)
		for key, want := range map[string]imageKey{
			clusterKey:          {kind: kindCluster},
			controllerKey:       {kind: kindController},
			brokerKey(b):        {kind: kindBroker, broker: b},
			topicKey(id):        {kind: kindTopic, topic: id},
			configKey(id):       {kind: kindConfig, topic: id},
			partitionKey(id, p): {kind: kindPartition, topic: id, partition: p},
			resourceKey(r):      {kind: kindResource, resource: r},
			unfencedKey(b):      {kind: kindUnfenced, broker: b},
			deploymentKey(b):    {kind: kindDeployment, broker: b},
		} {
			if got, err := parseImageKey(key); err != nil || got != want {
				t.Fatalf("%q is read as %+v, %v; want %+v", key, got, err, want)
			}
			if !strings.HasPrefix(key, imagePrefix) {
				t.Fatalf("%q is not watched", key)
			}
		}
		if gotID, gotP, err := parseTierKey(tierKey(id, p)); err != nil || gotID != id || gotP != p {
			t.Fatalf("%q is read as %v-%v, %v", tierKey(id, p), gotID, gotP, err)
		}
	})
}

// Different things have different keys, no key is the prefix of another one's
// range, and keys sort as numbers do.
func TestKeysDoNotCollide(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := genID(t), genID(t)
		m, n := genNumber.Draw(t, "m"), genNumber.Draw(t, "n")
		name, other := genName.Draw(t, "name"), genName.Draw(t, "other")
		keys := map[string]string{}
		add := func(key, what string) {
			if was, ok := keys[key]; ok && was != what {
				t.Fatalf("%s and %s share the key %q", was, what, key)
			}
			keys[key] = what
		}
		for _, id := range []record.TopicID{a, b} {
			add(topicKey(id), "topic "+id.Hex())
			add(configKey(id), "config "+id.Hex())
			for _, p := range []int32{m, n} {
				add(partitionKey(id, record.PartitionID(p)), "partition "+id.Hex()+number(p))
				add(tierKey(id, record.PartitionID(p)), "tier "+id.Hex()+number(p))
			}
		}
		for _, p := range []int32{m, n} {
			add(brokerKey(record.BrokerID(p)), "broker "+number(p))
			add(unfencedKey(record.BrokerID(p)), "unfenced "+number(p))
		}
		for range 2 {
			r := genResource(t)
			add(resourceKey(r), fmt.Sprintf("resource %d %q", r.Type, r.Name))
		}
		add(nameKey(name), "name "+name)
		add(nameKey(other), "name "+other)
		add(clusterKey, "cluster")
		add(controllerKey, "controller")
		add(producerIDKey, "producer id")
		add(joinKey, "join")
		add(removedKey(name), "removed "+name)
		if a != b && strings.HasPrefix(partitionKey(b, 0), partitionsOf(a)) {
			t.Fatalf("partitions of %v are in the range of %v", b, a)
		}
		for _, outside := range []string{nameKey(name), producerIDKey, tierKey(a, 1)} {
			if strings.HasPrefix(outside, imagePrefix) {
				t.Fatalf("%q is watched", outside)
			}
		}
		if (m < n) != (partitionKey(a, record.PartitionID(m)) < partitionKey(a, record.PartitionID(n))) {
			t.Fatalf("%d and %d sort differently as keys", m, n)
		}
	})
}

func TestMalformedKeys(t *testing.T) {
	id := strings.Repeat("0a", 16)
	for _, key := range []string{
		brokerPrefix, brokerPrefix + "1", brokerPrefix + "00000000001", brokerPrefix + "9999999999", brokerPrefix + "-000000001", unfencedPrefix + "1",
		topicPrefix + id[1:], topicPrefix + strings.ToUpper(id), topicPrefix + id + "/", configPrefix + strings.Repeat("g", 32),
		resourcePrefix, resourcePrefix + "004", resourcePrefix + "04/x", resourcePrefix + "-04/x", resourcePrefix + "0004/x", resourcePrefix + "128/x",
		partitionPrefix + id, partitionPrefix + id + "/", partitionPrefix + id + "-0000000000", partitionPrefix + id + "/000000000x",
	} {
		if k, err := parseImageKey(key); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%q is read as %+v, %v", key, k, err)
		}
	}
	if k, err := parseImageKey(resourcePrefix + "064/x"); err != nil || k.kind != kindUnknown {
		t.Errorf("a resource of a later version is read as %+v, %v", k, err)
	}
	if k, err := parseImageKey(imagePrefix + "later/x"); err != nil || k.kind != kindUnknown {
		t.Errorf("a kind of a later version is read as %+v, %v", k, err)
	}
	for _, key := range []string{"", tierPrefix, topicPrefix + id, tierPrefix + id + "/1"} {
		if _, _, err := parseTierKey(key); !errors.Is(err, ErrCorrupt) {
			t.Errorf("tier key %q: %v", key, err)
		}
	}
}

// roundTrip checks that v survives and that no shorter or longer bytes are
// taken for a value.
func roundTrip[T any](t *rapid.T, v T, encode func(T) []byte, decode func([]byte) (T, error)) {
	b := encode(v)
	got, err := decode(b)
	if err != nil || !reflect.DeepEqual(got, v) {
		t.Fatalf("%+v became %x and then %+v, %v", v, b, got, err)
	}
	for n := range b {
		if got, err := decode(b[:n]); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("the first %d of %d bytes are read as %+v, %v", n, len(b), got, err)
		}
	}
	if got, err := decode(append(bytes.Clone(b), 0)); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("with a byte more it is read as %+v, %v", got, err)
	}
	for _, version := range []byte{0, b[0] + 1, 255} {
		b[0] = version
		if got, err := decode(b); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("version %d is read as %+v, %v", version, got, err)
		} else if told := strings.Contains(err.Error(), "upgrade it"); told != (version > 0) {
			t.Fatalf("version %d: %v", version, err)
		}
	}
}

func TestValuesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		roundTrip(t, topicValue{
			Name: genName.Draw(t, "name"), Internal: rapid.Bool().Draw(t, "internal"),
			Partitions: rapid.Int32Range(1, MaxPartitions).Draw(t, "partitions"), CreatedMs: rapid.Int64().Draw(t, "created"),
		}, topicValue.encode, decodeTopic)
		roundTrip(t, Partition{
			Leader: record.BrokerID(rapid.Int32Range(-1, math.MaxInt32).Draw(t, "leader")), Epoch: record.Epoch(rapid.Int32().Draw(t, "epoch")),
			PartitionEpoch: rapid.Int32().Draw(t, "pepoch"), Replicas: genBrokers(t, "replicas"), ISR: genBrokers(t, "isr"),
			ELR: genBrokers(t, "elr"), Adding: genBrokers(t, "adding"), Removing: genBrokers(t, "removing"),
		}, encodePartition, decodePartition)
		roundTrip(t, Broker{
			Host: genText.Draw(t, "host"), Port: genNumber.Draw(t, "port"), HTTP: genText.Draw(t, "http"),
			Rack: genText.Draw(t, "rack"), StartedMs: rapid.Int64().Draw(t, "started"),
			Disk: genText.Draw(t, "disk"), Peer: genText.Draw(t, "peer"),
			Cache: genText.Draw(t, "cache"), Leaving: rapid.Bool().Draw(t, "leaving"),
		}, encodeBroker, decodeBroker)
		roundTrip(t, Unfenced{Epoch: rapid.Int64Range(0, math.MaxInt64).Draw(t, "epoch"), Disk: genText.Draw(t, "disk of the epoch"), Cache: genText.Draw(t, "cache of the epoch")}, encodeUnfenced, decodeUnfenced)
		roundTrip(t, rapid.MapOfN(genText, genText, 0, 5).Draw(t, "configs"), encodeConfigs, decodeConfigs)
		roundTrip(t, record.BrokerID(genNumber.Draw(t, "controller")), encodeController, decodeController)
		roundTrip(t, rapid.StringN(1, 30, 60).Draw(t, "cluster"), encodeClusterID, decodeClusterID)
		roundTrip(t, rapid.StringN(1, 30, MaxDeployment).Draw(t, "deployment"), encodeDeployment, decodeDeployment)
		roundTrip(t, genID(t), encodeTopicID, decodeTopicID)
		roundTrip(t, rapid.Int64Range(0, math.MaxInt64).Draw(t, "next"), encodeProducerID, decodeProducerID)
	})
}

// The bytes themselves: a change here breaks every folder that exists.
func TestGoldenKeysAndValues(t *testing.T) {
	id, err := record.ParseTopicID("000102030405060708090a0b0c0d0e0f")
	if err != nil {
		t.Fatal(err)
	}
	for got, want := range map[string]string{
		clusterKey:       "/firn/v1/image/cluster",
		controllerKey:    "/firn/v1/image/controller",
		brokerKey(7):     "/firn/v1/image/broker/0000000007",
		unfencedKey(7):   "/firn/v1/image/unfenced/0000000007",
		deploymentKey(7): "/firn/v1/image/deployment/0000000007",
		topicKey(id):     "/firn/v1/image/topic/000102030405060708090a0b0c0d0e0f",
		configKey(id):    "/firn/v1/image/config/000102030405060708090a0b0c0d0e0f",
		resourceKey(ConfigResource{BrokerConfigs, ""}):     "/firn/v1/image/configs/004/",
		resourceKey(ConfigResource{BrokerConfigs, "12"}):   "/firn/v1/image/configs/004/12",
		resourceKey(ConfigResource{ClientMetrics, "cpu"}):  "/firn/v1/image/configs/016/cpu",
		resourceKey(ConfigResource{GroupConfigs, "a/b ü"}): "/firn/v1/image/configs/032/a/b ü",
		partitionKey(id, 12):                               "/firn/v1/image/partition/000102030405060708090a0b0c0d0e0f/0000000012",
		tierKey(id, 12):                                    "/firn/v1/tier/000102030405060708090a0b0c0d0e0f/0000000012",
		nameKey("a.b"):                                     "/firn/v1/name/a.b",
		producerIDKey:                                      "/firn/v1/producerid",
		joinKey:                                            "/firn/v1/join",
		removedKey("h:1"):                                  "/firn/v1/removed/h:1",
	} {
		if got != want {
			t.Errorf("key %q, want %q", got, want)
		}
	}
	for what, v := range map[string]struct {
		got  []byte
		want string
	}{
		"topic":      {topicValue{Name: "ab", Internal: true, Partitions: 300, CreatedMs: 1}.encode(), "0101" + "ac02" + "02" + "026162"},
		"partition":  {encodePartition(Partition{Leader: 1, Epoch: 2, PartitionEpoch: 3, Replicas: []record.BrokerID{1, 300}, ISR: []record.BrokerID{1}, ELR: []record.BrokerID{300}, Adding: []record.BrokerID{300}, Removing: []record.BrokerID{1}, Revision: 9}), "02" + "02" + "04" + "06" + "0201ac02" + "0101" + "01ac02" + "01ac02" + "0101"},
		"broker":     {encodeBroker(Broker{Host: "h", Port: 9092, HTTP: "x", StartedMs: -1, Disk: "d", Cache: "c", Leaving: true, Peer: "p:1"}), "02" + "01" + "8447" + "0168" + "0178" + "00" + "01" + "0164" + "0163" + "03703a31"},
		"unfenced":   {encodeUnfenced(Unfenced{Epoch: 300, Disk: "d", Cache: "c"}), "01" + "ac02" + "0164" + "0163"},
		"configs":    {encodeConfigs(map[string]string{"b": "", "a": "1"}), "01" + "02" + "01610131" + "016200"},
		"controller": {encodeController(5), "0105"},
		"cluster":    {encodeClusterID("xy"), "01027879"},
		"deployment": {encodeDeployment("a.b"), "0103612e62"},
		"name":       {encodeTopicID(id), "01" + "000102030405060708090a0b0c0d0e0f"},
		"producerid": {encodeProducerID(1000), "01e807"},
	} {
		if hex.EncodeToString(v.got) != v.want {
			t.Errorf("%s value %x, want %s", what, v.got, v.want)
		}
	}
	if n := len(partitionKey(id, 0)) + len(encodePartition(Partition{Epoch: 1 << 20, PartitionEpoch: 1 << 20, Replicas: []record.BrokerID{1, 2, 3}, ISR: []record.BrokerID{1, 2, 3}})); n > 120 {
		t.Errorf("a partition takes %d bytes", n)
	}
}

// Values of version 1, which folders made before there were clusters hold.
func TestOlderValues(t *testing.T) {
	p, err := decodePartition([]byte("\x01\x02\x04\x06\x02\x01\xac\x02\x01\x01"))
	if want := (Partition{Leader: 1, Epoch: 2, PartitionEpoch: 3, Replicas: []record.BrokerID{1, 300}, ISR: []record.BrokerID{1}}); err != nil || !reflect.DeepEqual(p, want) {
		t.Errorf("a partition is read as %+v, %v", p, err)
	}
	b, err := decodeBroker([]byte("\x01\x01\x84\x47\x01h\x01x\x00"))
	if want := (Broker{Host: "h", Port: 9092, HTTP: "x", StartedMs: -1}); err != nil || b != want {
		t.Errorf("a broker is read as %+v, %v", b, err)
	}
}

// Whatever bytes a decoder accepts, it gives a value that survives another
// round; it never panics and never allocates more than the bytes could hold.
func FuzzDecode(f *testing.F) {
	f.Add(topicValue{Name: "topic", Partitions: 3}.encode())
	f.Add(encodePartition(Partition{Leader: -1, Replicas: []record.BrokerID{1, 2}, ISR: []record.BrokerID{2}}))
	f.Add(encodeBroker(Broker{Host: "host", Port: 9092}))
	f.Add([]byte("\x01\x01\x84\x47\x01h\x01x\x00"))
	f.Add([]byte("\x01\x02\x04\x06\x02\x01\xac\x02\x01\x01"))
	f.Add(encodeUnfenced(Unfenced{Epoch: 1, Disk: "disk"}))
	f.Add(encodeConfigs(map[string]string{"retention.ms": "1000", "x": "y"}))
	f.Add(encodeClusterID("cluster"))
	f.Add(encodeProducerID(math.MaxInt64))
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		again(t, b, topicValue.encode, decodeTopic)
		again(t, b, encodePartition, decodePartition)
		again(t, b, encodeBroker, decodeBroker)
		again(t, b, encodeUnfenced, decodeUnfenced)
		again(t, b, encodeConfigs, decodeConfigs)
		again(t, b, encodeController, decodeController)
		again(t, b, encodeClusterID, decodeClusterID)
		again(t, b, encodeTopicID, decodeTopicID)
		again(t, b, encodeProducerID, decodeProducerID)
	})
}

func again[T any](t *testing.T, b []byte, encode func(T) []byte, decode func([]byte) (T, error)) {
	v, err := decode(b)
	if err != nil {
		if !errors.Is(err, ErrCorrupt) {
			t.Fatalf("%x: %v", b, err)
		}
		return
	}
	got, err := decode(encode(v))
	if err != nil || !reflect.DeepEqual(got, v) {
		t.Fatalf("%x is %+v, encoded again %+v, %v", b, v, got, err)
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add(partitionKey(record.TopicID{1}, 5))
	f.Add(tierKey(record.TopicID{1}, 5))
	f.Add(brokerKey(5))
	f.Add(resourceKey(ConfigResource{GroupConfigs, "g"}))
	f.Fuzz(func(t *testing.T, key string) {
		if k, err := parseImageKey(key); err == nil {
			back := map[kind]string{
				kindBroker: brokerKey(max(0, k.broker)), kindUnfenced: unfencedKey(max(0, k.broker)), kindDeployment: deploymentKey(max(0, k.broker)), kindCluster: clusterKey, kindConfig: configKey(k.topic),
				kindController: controllerKey, kindPartition: partitionKey(k.topic, max(0, k.partition)), kindTopic: topicKey(k.topic), kindResource: resourceKey(k.resource),
				kindUnknown: key,
			}[k.kind]
			if back != key {
				t.Fatalf("%q and %q are read as the same key", key, back)
			}
		}
		if id, p, err := parseTierKey(key); err == nil && tierKey(id, p) != key {
			t.Fatalf("%q and %q are read as the same key", key, tierKey(id, p))
		}
	})
}
