package main

import (
	"context"
	"fmt"
	"math/big"

	"github.com/hashicorp/terraform-plugin-go/tfprotov5"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

// server answers Terraform. It keeps nothing: what was applied is in Terraform's
// state.
type server struct {
	schemas schemas
	answers map[string]map[string]any
}

func (a attribute) tfType() tftypes.Type {
	switch a.Type {
	case "number":
		return tftypes.Number
	case "bool":
		return tftypes.Bool
	case "list":
		return tftypes.List{ElementType: tftypes.String}
	case "numbers":
		return tftypes.List{ElementType: tftypes.Number}
	case "set":
		return tftypes.Set{ElementType: tftypes.String}
	case "map":
		return tftypes.Map{ElementType: tftypes.String}
	case "objects":
		return tftypes.List{ElementType: a.Object.tfType()}
	}
	return tftypes.String
}

func (n nested) tfType() tftypes.Type {
	switch n.Nesting {
	case "single":
		return n.Block.tfType()
	case "set":
		return tftypes.Set{ElementType: n.Block.tfType()}
	}
	return tftypes.List{ElementType: n.Block.tfType()}
}

func (b block) tfType() tftypes.Object {
	o := tftypes.Object{AttributeTypes: map[string]tftypes.Type{}}
	for name, a := range b.Attributes {
		o.AttributeTypes[name] = a.tfType()
	}
	for name, n := range b.Blocks {
		o.AttributeTypes[name] = n.tfType()
	}
	return o
}

func (b block) schema() *tfprotov5.SchemaBlock {
	s := &tfprotov5.SchemaBlock{}
	for name, a := range b.Attributes {
		s.Attributes = append(s.Attributes, &tfprotov5.SchemaAttribute{Name: name, Type: a.tfType(), Required: a.Required, Optional: a.Optional, Computed: a.Computed})
	}
	for name, n := range b.Blocks {
		t := &tfprotov5.SchemaNestedBlock{TypeName: name, Block: n.Block.schema(), Nesting: tfprotov5.SchemaNestedBlockNestingModeList}
		switch n.Nesting {
		case "single":
			t.Nesting = tfprotov5.SchemaNestedBlockNestingModeSingle
		case "set":
			t.Nesting = tfprotov5.SchemaNestedBlockNestingModeSet
		}
		if t.Nesting != tfprotov5.SchemaNestedBlockNestingModeSingle {
			if n.Required {
				t.MinItems = 1
			}
			if n.One {
				t.MaxItems = 1
			}
		}
		s.BlockTypes = append(s.BlockTypes, t)
	}
	return s
}

// fill gives v with what a cloud would have filled in: make makes the value of a
// computed attribute that is null, or not known.
func (b block) fill(v tftypes.Value, makeValue func(name string, t tftypes.Type) tftypes.Value) (tftypes.Value, error) {
	if v.IsNull() || !v.IsKnown() {
		return v, nil
	}
	var in map[string]tftypes.Value
	if err := v.As(&in); err != nil {
		return v, err
	}
	out := map[string]tftypes.Value{}
	for name, x := range in {
		out[name] = x
		if a, ok := b.Attributes[name]; ok && a.Computed && (x.IsNull() || !x.IsKnown()) {
			out[name] = makeValue(name, a.tfType())
		}
		n, ok := b.Blocks[name]
		if !ok || x.IsNull() || !x.IsKnown() {
			continue
		}
		if n.Nesting == "single" {
			f, err := n.Block.fill(x, makeValue)
			if err != nil {
				return v, err
			}
			out[name] = f
			continue
		}
		var items []tftypes.Value
		if err := x.As(&items); err != nil {
			return v, err
		}
		for i := range items {
			f, err := n.Block.fill(items[i], makeValue)
			if err != nil {
				return v, err
			}
			items[i] = f
		}
		out[name] = tftypes.NewValue(x.Type(), items)
	}
	return tftypes.NewValue(v.Type(), out), nil
}

func unknown(_ string, t tftypes.Type) tftypes.Value {
	return tftypes.NewValue(t, tftypes.UnknownValue)
}

// madeUp gives something of the type, after what a data source is set to answer.
func madeUp(answers map[string]any) func(string, tftypes.Type) tftypes.Value {
	return func(name string, t tftypes.Type) tftypes.Value {
		if a, ok := answers[name]; ok {
			return fromJSON(a, t)
		}
		switch {
		case t.Is(tftypes.String):
			return tftypes.NewValue(t, "standin-"+name)
		case t.Is(tftypes.Number):
			return tftypes.NewValue(t, big.NewFloat(1))
		case t.Is(tftypes.Bool):
			return tftypes.NewValue(t, false)
		case t.Is(tftypes.Map{}):
			return tftypes.NewValue(t, map[string]tftypes.Value{})
		case t.Is(tftypes.List{}), t.Is(tftypes.Set{}):
			return tftypes.NewValue(t, []tftypes.Value{})
		}
		return tftypes.NewValue(t, nil)
	}
}

func fromJSON(a any, t tftypes.Type) tftypes.Value {
	switch x := a.(type) {
	case string, bool:
		return tftypes.NewValue(t, x)
	case float64:
		return tftypes.NewValue(t, big.NewFloat(x))
	case []any:
		var element tftypes.Type = tftypes.String
		if l, ok := t.(tftypes.List); ok {
			element = l.ElementType
		}
		items := []tftypes.Value{}
		for _, i := range x {
			items = append(items, fromJSON(i, element))
		}
		return tftypes.NewValue(t, items)
	case map[string]any:
		if o, ok := t.(tftypes.Object); ok {
			fields := map[string]tftypes.Value{}
			for name, ft := range o.AttributeTypes {
				if v, ok := x[name]; ok {
					fields[name] = fromJSON(v, ft)
				} else {
					fields[name] = tftypes.NewValue(ft, nil)
				}
			}
			return tftypes.NewValue(t, fields)
		}
	}
	return tftypes.NewValue(t, nil)
}

func failed(err error) []*tfprotov5.Diagnostic {
	return []*tfprotov5.Diagnostic{{Severity: tfprotov5.DiagnosticSeverityError, Summary: err.Error()}}
}

func (s *server) GetMetadata(context.Context, *tfprotov5.GetMetadataRequest) (*tfprotov5.GetMetadataResponse, error) {
	r := &tfprotov5.GetMetadataResponse{}
	for name := range s.schemas.Resources {
		r.Resources = append(r.Resources, tfprotov5.ResourceMetadata{TypeName: name})
	}
	for name := range s.schemas.Data {
		r.DataSources = append(r.DataSources, tfprotov5.DataSourceMetadata{TypeName: name})
	}
	return r, nil
}

func (s *server) GetProviderSchema(context.Context, *tfprotov5.GetProviderSchemaRequest) (*tfprotov5.GetProviderSchemaResponse, error) {
	r := &tfprotov5.GetProviderSchemaResponse{Provider: &tfprotov5.Schema{Block: s.schemas.Provider.schema()},
		ResourceSchemas: map[string]*tfprotov5.Schema{}, DataSourceSchemas: map[string]*tfprotov5.Schema{}}
	for name, b := range s.schemas.Resources {
		r.ResourceSchemas[name] = &tfprotov5.Schema{Block: b.schema()}
	}
	for name, b := range s.schemas.Data {
		r.DataSourceSchemas[name] = &tfprotov5.Schema{Block: b.schema()}
	}
	return r, nil
}

func (s *server) PrepareProviderConfig(_ context.Context, r *tfprotov5.PrepareProviderConfigRequest) (*tfprotov5.PrepareProviderConfigResponse, error) {
	return &tfprotov5.PrepareProviderConfigResponse{PreparedConfig: r.Config}, nil
}

func (s *server) ConfigureProvider(context.Context, *tfprotov5.ConfigureProviderRequest) (*tfprotov5.ConfigureProviderResponse, error) {
	return &tfprotov5.ConfigureProviderResponse{}, nil
}

func (s *server) StopProvider(context.Context, *tfprotov5.StopProviderRequest) (*tfprotov5.StopProviderResponse, error) {
	return &tfprotov5.StopProviderResponse{}, nil
}

func (s *server) ValidateResourceTypeConfig(context.Context, *tfprotov5.ValidateResourceTypeConfigRequest) (*tfprotov5.ValidateResourceTypeConfigResponse, error) {
	return &tfprotov5.ValidateResourceTypeConfigResponse{}, nil
}

func (s *server) ValidateDataSourceConfig(context.Context, *tfprotov5.ValidateDataSourceConfigRequest) (*tfprotov5.ValidateDataSourceConfigResponse, error) {
	return &tfprotov5.ValidateDataSourceConfigResponse{}, nil
}

func (s *server) UpgradeResourceState(_ context.Context, r *tfprotov5.UpgradeResourceStateRequest) (*tfprotov5.UpgradeResourceStateResponse, error) {
	t := s.schemas.Resources[r.TypeName].tfType()
	v, err := r.RawState.Unmarshal(t)
	if err != nil {
		return &tfprotov5.UpgradeResourceStateResponse{Diagnostics: failed(err)}, nil
	}
	out, err := tfprotov5.NewDynamicValue(t, v)
	if err != nil {
		return nil, err
	}
	return &tfprotov5.UpgradeResourceStateResponse{UpgradedState: &out}, nil
}

func (s *server) ReadResource(_ context.Context, r *tfprotov5.ReadResourceRequest) (*tfprotov5.ReadResourceResponse, error) {
	return &tfprotov5.ReadResourceResponse{NewState: r.CurrentState}, nil
}

// filled decodes, fills and encodes.
func filled(b block, v *tfprotov5.DynamicValue, makeValue func(string, tftypes.Type) tftypes.Value) (*tfprotov5.DynamicValue, error) {
	t := b.tfType()
	x, err := v.Unmarshal(t)
	if err != nil {
		return nil, err
	}
	if x, err = b.fill(x, makeValue); err != nil {
		return nil, err
	}
	out, err := tfprotov5.NewDynamicValue(t, x)
	return &out, err
}

func (s *server) PlanResourceChange(_ context.Context, r *tfprotov5.PlanResourceChangeRequest) (*tfprotov5.PlanResourceChangeResponse, error) {
	out, err := filled(s.schemas.Resources[r.TypeName], r.ProposedNewState, unknown)
	if err != nil {
		return &tfprotov5.PlanResourceChangeResponse{Diagnostics: failed(err)}, nil
	}
	return &tfprotov5.PlanResourceChangeResponse{PlannedState: out}, nil
}

func (s *server) ApplyResourceChange(_ context.Context, r *tfprotov5.ApplyResourceChangeRequest) (*tfprotov5.ApplyResourceChangeResponse, error) {
	out, err := filled(s.schemas.Resources[r.TypeName], r.PlannedState, madeUp(nil))
	if err != nil {
		return &tfprotov5.ApplyResourceChangeResponse{Diagnostics: failed(err)}, nil
	}
	return &tfprotov5.ApplyResourceChangeResponse{NewState: out}, nil
}

func (s *server) ReadDataSource(_ context.Context, r *tfprotov5.ReadDataSourceRequest) (*tfprotov5.ReadDataSourceResponse, error) {
	out, err := filled(s.schemas.Data[r.TypeName], r.Config, madeUp(s.answers[r.TypeName]))
	if err != nil {
		return &tfprotov5.ReadDataSourceResponse{Diagnostics: failed(err)}, nil
	}
	return &tfprotov5.ReadDataSourceResponse{State: out}, nil
}

func (s *server) ImportResourceState(context.Context, *tfprotov5.ImportResourceStateRequest) (*tfprotov5.ImportResourceStateResponse, error) {
	return &tfprotov5.ImportResourceStateResponse{Diagnostics: failed(fmt.Errorf("nothing can be imported: there is no cloud"))}, nil
}
