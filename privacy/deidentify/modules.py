"""Which attributes an object of each SOP class may keep, by the modules of PS3.3.

A word is an attribute's keyword in PS3.6, with its type where it is not 3: `StudyDate:2` may be empty, `Rows:1` may
not. What is not listed here is removed, at every depth; that an attribute is listed does not yet keep it (see
`profile`).
"""

PATIENT = """
PatientName:2 PatientID:2 PatientBirthDate:2 PatientSex:2 PatientAge PatientSize PatientWeight EthnicGroup
SmokingStatus PregnancyStatus
"""
STUDY = """
StudyInstanceUID:1 StudyDate:2 StudyTime:2 ReferringPhysicianName:2 StudyID:2 AccessionNumber:2 StudyDescription
"""
SERIES = """
Modality:1 SeriesInstanceUID:1 SeriesNumber:2 Laterality:2 SeriesDate SeriesTime SeriesDescription ProtocolName
OperatorsName BodyPartExamined PatientPosition:2 SmallestPixelValueInSeries LargestPixelValueInSeries
PresentationIntentType AnatomicalOrientationType ReferencedPerformedProcedureStepSequence
"""
FRAME_OF_REFERENCE = "FrameOfReferenceUID:1 PositionReferenceIndicator:2"
EQUIPMENT = """
Manufacturer:2 ManufacturerModelName InstitutionName StationName InstitutionalDepartmentName DeviceSerialNumber
SoftwareVersions GantryID SpatialResolution PixelPaddingValue PixelPaddingRangeLimit DateOfLastCalibration
TimeOfLastCalibration
"""
INSTANCE = """
SOPClassUID:1 SOPInstanceUID:1 InstanceCreationDate InstanceCreationTime InstanceNumber:2 ContentDate:2 ContentTime:2
AcquisitionDate AcquisitionTime AcquisitionDateTime AcquisitionNumber SynchronizationFrameOfReferenceUID
"""
CODE = "CodeValue:1 CodingSchemeDesignator:1 CodeMeaning:1"
REFERENCES = """
ReferencedImageSequence SourceImageSequence ReferencedInstanceSequence ReferencedSOPClassUID:1
ReferencedSOPInstanceUID:1 ReferencedFrameNumber ReferencedSegmentNumber ReferencedSeriesSequence
ReferencedStudySequence StudiesContainingOtherReferencedInstancesSequence PurposeOfReferenceCodeSequence
DerivationCodeSequence DerivationImageSequence SpatialLocationsPreserved IrradiationEventUID
"""
IMAGE = """
ImageType PatientOrientation:2 ImagesInAcquisition QualityControlImage LossyImageCompression
LossyImageCompressionRatio LossyImageCompressionMethod PresentationLUTShape AnatomicRegionSequence
AnatomicRegionModifierSequence PrimaryAnatomicStructureSequence ImageLaterality FrameLaterality
"""
PIXELS = """
SamplesPerPixel:1 PhotometricInterpretation:1 PlanarConfiguration Rows:1 Columns:1 BitsAllocated:1 BitsStored:1
HighBit:1 PixelRepresentation:1 PixelAspectRatio SmallestImagePixelValue LargestImagePixelValue
RedPaletteColorLookupTableDescriptor GreenPaletteColorLookupTableDescriptor BluePaletteColorLookupTableDescriptor
RedPaletteColorLookupTableData GreenPaletteColorLookupTableData BluePaletteColorLookupTableData
SegmentedRedPaletteColorLookupTableData SegmentedGreenPaletteColorLookupTableData
SegmentedBluePaletteColorLookupTableData PixelData ColorSpace NumberOfFrames
"""
LUTS = """
RescaleIntercept RescaleSlope RescaleType:1 ModalityLUTSequence LUTDescriptor:1 ModalityLUTType LUTData:1 WindowCenter
WindowWidth VOILUTFunction VOILUTSequence PixelIntensityRelationship PixelIntensityRelationshipSign
"""
PLANE = """
PixelSpacing:1 ImageOrientationPatient:1 ImagePositionPatient:1 SliceThickness:2 SliceLocation SpacingBetweenSlices
PixelSpacingCalibrationType
"""
CONTRAST = """
ContrastBolusAgent:2 ContrastBolusRoute ContrastBolusVolume ContrastBolusStartTime ContrastBolusStopTime
ContrastBolusTotalDose ContrastFlowRate ContrastFlowDuration ContrastBolusIngredient
ContrastBolusIngredientConcentration
"""
MULTI_FRAME = """
NumberOfFrames FrameIncrementPointer FrameTime FrameTimeVector FrameDelay StartTrim StopTrim
RecommendedDisplayFrameRate CineRate EffectiveDuration ActualFrameDuration PreferredPlaybackSequencing
RepresentativeFrameNumber RecommendedDisplayFrameRateInFloat
"""
EXPOSURE = """
KVP XRayTubeCurrent ExposureTime Exposure ExposureInuAs ExposureTimeInuS XRayTubeCurrentInuA DistanceSourceToDetector
DistanceSourceToPatient FocalSpots FilterType FilterMaterial GeneratorPower AnodeTargetMaterial BodyPartThickness
CompressionForce EntranceDose EntranceDoseInmGy OrganDose ImageAndFluoroscopyAreaDoseProduct FilterThicknessMinimum
FilterThicknessMaximum RectificationType HalfValueLayer Grid GridFocalDistance ExposureControlMode ExposureStatus
DistanceSourceToEntrance RelativeXRayExposure ExposureIndex TargetExposureIndex DeviationIndex Sensitivity
"""

IMAGE_OBJECT = [PATIENT, STUDY, SERIES, EQUIPMENT, INSTANCE, CODE, REFERENCES, IMAGE, PIXELS, LUTS]

CT = """
ScanOptions KVP:2 AcquisitionNumber:2 DataCollectionDiameter ReconstructionDiameter DistanceSourceToDetector
DistanceSourceToPatient GantryDetectorTilt TableHeight RotationDirection ExposureTime XRayTubeCurrent Exposure
ExposureInuAs FilterType GeneratorPower FocalSpots ConvolutionKernel RevolutionTime SingleCollimationWidth
TotalCollimationWidth TableSpeed TableFeedPerRotation SpiralPitchFactor DataCollectionCenterPatient
ReconstructionTargetCenterPatient ExposureModulationType EstimatedDoseSaving CTDIvol CTDIPhantomTypeCodeSequence
CalciumScoringMassFactorPatient MultienergyCTAcquisition WaterEquivalentDiameter RescaleIntercept:1 RescaleSlope:1
"""
MR = """
ScanningSequence:1 SequenceVariant:1 ScanOptions:2 MRAcquisitionType:2 RepetitionTime:2 EchoTime:2 EchoTrainLength:2
InversionTime TriggerTime SequenceName AngioFlag NumberOfAverages ImagingFrequency ImagedNucleus EchoNumbers
MagneticFieldStrength NumberOfPhaseEncodingSteps PercentSampling PercentPhaseFieldOfView PixelBandwidth
NominalInterval BeatRejectionFlag LowRRValue HighRRValue IntervalsAcquired IntervalsRejected HeartRate
CardiacNumberOfImages TriggerWindow ReconstructionDiameter ReceiveCoilName TransmitCoilName AcquisitionMatrix
InPlanePhaseEncodingDirection FlipAngle VariableFlipAngleFlag SAR dBdt TemporalPositionIdentifier
NumberOfTemporalPositions TemporalResolution DiffusionBValue DiffusionGradientOrientation
"""
PROJECTION = """
ViewPosition:2 ViewCodeSequence ViewModifierCodeSequence PatientOrientation ImagerPixelSpacing
EstimatedRadiographicMagnificationFactor PixelSpacing PixelSpacingCalibrationType DetectorType DetectorConfiguration
DetectorMode DetectorActiveTime DetectorActivationOffsetFromExposure DetectorBinning DetectorConditionsNominalFlag
DetectorTemperature DetectorElementPhysicalSize DetectorElementSpacing DetectorActiveShape DetectorActiveDimensions
DetectorActiveOrigin FieldOfViewShape FieldOfViewDimensions FieldOfViewOrigin FieldOfViewRotation
FieldOfViewHorizontalFlip PlateType PhosphorType CollimatorShape CollimatorLeftVerticalEdge
CollimatorRightVerticalEdge CollimatorUpperHorizontalEdge CollimatorLowerHorizontalEdge CenterOfCircularCollimator
RadiusOfCircularCollimator VerticesOfThePolygonalCollimator PositionerType PositionerPrimaryAngle
PositionerSecondaryAngle DetectorPrimaryAngle DetectorSecondaryAngle BreastImplantPresent PartialView
PartialViewCodeSequence OrganExposed ImageLaterality PatientPosition
"""
US = """
SequenceOfUltrasoundRegions RegionSpatialFormat:1 RegionDataType:1 RegionFlags:1 RegionLocationMinX0:1
RegionLocationMinY0:1 RegionLocationMaxX1:1 RegionLocationMaxY1:1 ReferencePixelX0 ReferencePixelY0
PhysicalUnitsXDirection:1 PhysicalUnitsYDirection:1 ReferencePixelPhysicalValueX ReferencePixelPhysicalValueY
PhysicalDeltaX:1 PhysicalDeltaY:1 TransducerFrequency PulseRepetitionFrequency DopplerCorrectionAngle SteeringAngle
DopplerSampleVolumeXPosition DopplerSampleVolumeYPosition PixelComponentOrganization PixelComponentMask
PixelComponentRangeStart PixelComponentRangeStop PixelComponentPhysicalUnits PixelComponentDataType
NumberOfTableBreakPoints TransducerType UltrasoundColorDataPresent HeartRate NumberOfStages StageNumber
NumberOfViewsInStage ViewNumber FocusDepth MechanicalIndex BoneThermalIndex CranialThermalIndex SoftTissueThermalIndex
DepthOfScanField PixelSpacing NumberOfEventTimers
"""
PET = """
SeriesType:1 Units:1 CountsSource:1 CollimatorType DecayCorrection:1 CorrectedImage:2 ReconstructionMethod
RandomsCorrectionMethod AttenuationCorrectionMethod ScatterCorrectionMethod NumberOfSlices:1 NumberOfTimeSlices
NumberOfRRIntervals NumberOfTimeSlots FrameReferenceTime:1 ActualFrameDuration:2 DecayFactor DoseCalibrationFactor
ScatterFractionFactor DeadTimeFactor ImageIndex:1 SliceSensitivityFactor ReconstructionDiameter ConvolutionKernel
EnergyWindowRangeSequence EnergyWindowLowerLimit EnergyWindowUpperLimit RadiopharmaceuticalInformationSequence
RadionuclideCodeSequence RadiopharmaceuticalCodeSequence RadiopharmaceuticalStartTime RadiopharmaceuticalStopTime
RadionuclideTotalDose RadionuclideHalfLife RadionuclidePositronFraction RadiopharmaceuticalSpecificActivity
RadiopharmaceuticalStartDateTime RadiopharmaceuticalStopDateTime RadiopharmaceuticalVolume AxialAcceptance AxialMash
TransverseMash DetectorElementSize CoincidenceWindowWidth GantryDetectorTilt TableHeight
PatientOrientationCodeSequence:2 PatientOrientationModifierCodeSequence PatientGantryRelationshipCodeSequence:2
RotationDirection CountsAccumulated SUVType RescaleIntercept:1 RescaleSlope:1 PatientWeight PatientSize
AcquisitionStartCondition AcquisitionTerminationCondition
"""
NM = """
EnergyWindowVector:1 NumberOfEnergyWindows:1 EnergyWindowInformationSequence:2 EnergyWindowRangeSequence
EnergyWindowLowerLimit EnergyWindowUpperLimit DetectorVector:1 NumberOfDetectors:1 DetectorInformationSequence:2
CollimatorType FieldOfViewShape FieldOfViewDimensions FocalDistance XFocusCenter YFocusCenter ZoomCenter ZoomFactor
CenterOfRotationOffset GantryDetectorTilt DistanceSourceToDetector StartAngle RadialPosition RotationVector
NumberOfRotations RotationInformationSequence RotationDirection ScanArc AngularStep NumberOfFramesInRotation
PhaseVector NumberOfPhases PhaseInformationSequence PhaseDelay NumberOfFramesInPhase SliceVector NumberOfSlices
TimeSliceVector TimeSlotVector NumberOfTimeSlots RRIntervalVector NumberOfRRIntervals AngularViewVector
CountsAccumulated AcquisitionTerminationCondition TableHeight TableTraverse ActualFrameDuration CountRate
ProcessingFunction CorrectedImage WholeBodyTechnique ScanVelocity ScanLength TriggerSourceOrType
RadiopharmaceuticalInformationSequence RadionuclideCodeSequence RadiopharmaceuticalStartTime RadionuclideTotalDose
RadionuclideHalfLife PatientOrientationCodeSequence:2 PatientGantryRelationshipCodeSequence:2 PixelSpacing:2
SpacingBetweenSlices ImagePositionPatient ImageOrientationPatient
"""
XA = """
KVP:2 RadiationSetting:1 XRayTubeCurrent:2 ExposureTime:2 Exposure:2 AveragePulseWidth RadiationMode
PositionerMotion:2 IntensifierSize ImagerPixelSpacing FieldOfViewShape FieldOfViewDimensions DistanceSourceToDetector
DistanceSourceToPatient EstimatedRadiographicMagnificationFactor PositionerPrimaryAngle PositionerSecondaryAngle
PositionerPrimaryAngleIncrement PositionerSecondaryAngleIncrement DetectorPrimaryAngle DetectorSecondaryAngle
TableMotion TableVerticalIncrement TableLateralIncrement TableLongitudinalIncrement TableAngle ShutterShape
ShutterLeftVerticalEdge ShutterRightVerticalEdge ShutterUpperHorizontalEdge ShutterLowerHorizontalEdge
MaskSubtractionSequence MaskOperation:1 ApplicableFrameRange MaskFrameNumbers ContrastFrameAveraging MaskSubPixelShift
TIDOffset RecommendedViewingMode:2 XRayImageReceptorTranslation Grid TypeOfFilters ScanOptions CollimatorShape
CollimatorLeftVerticalEdge CollimatorRightVerticalEdge CollimatorUpperHorizontalEdge CollimatorLowerHorizontalEdge
PixelSpacing
"""
SC = "ConversionType:1 PixelSpacing NominalScannedPixelSpacing PixelSpacingCalibrationType"
ENHANCED_EQUIPMENT = "Manufacturer:1 ManufacturerModelName:1 DeviceSerialNumber:1 SoftwareVersions:1"
FUNCTIONAL_GROUPS = """
SharedFunctionalGroupsSequence:1 PerFrameFunctionalGroupsSequence:1 DimensionOrganizationSequence
DimensionOrganizationUID:1 DimensionIndexSequence DimensionIndexPointer:1 FunctionalGroupPointer
DimensionOrganizationType InConcatenationNumber ConcatenationUID ConcatenationFrameOffsetNumber FrameContentSequence
FrameAcquisitionNumber FrameReferenceDateTime FrameAcquisitionDateTime FrameAcquisitionDuration CardiacCyclePosition
RespiratoryCyclePosition DimensionIndexValues TemporalPositionIndex StackID InStackPositionNumber
PlanePositionSequence ImagePositionPatient:1 PlaneOrientationSequence ImageOrientationPatient:1 PixelMeasuresSequence
PixelSpacing SliceThickness SpacingBetweenSlices FrameAnatomySequence FrameVOILUTSequence
PixelValueTransformationSequence FrameType ReferencedImageSequence DerivationImageSequence SourceImageSequence
PlanePositionVolumeSequence ImagePositionVolume PixelPresentation VolumetricProperties VolumeBasedCalculationTechnique
ComplexImageComponent AcquisitionContrast ContentQualification AcquisitionDuration RealWorldValueMappingSequence
LUTLabel:1 LUTExplanation:1 RealWorldValueIntercept RealWorldValueSlope RealWorldValueFirstValueMapped
RealWorldValueLastValueMapped MeasurementUnitsCodeSequence:1 TemporalPositionTimeOffset VelocityEncodingDirection
FrameLabel IrradiationEventIdentificationSequence AcquisitionContextSequence:2
"""
ENHANCED_CT = """
CTImageFrameTypeSequence CTAcquisitionTypeSequence AcquisitionType TubeAngle ConstantVolumeFlag FluoroscopyFlag
CTAcquisitionDetailsSequence RotationDirection RevolutionTime SingleCollimationWidth TotalCollimationWidth TableHeight
GantryDetectorTilt DataCollectionDiameter CTTableDynamicsSequence TableSpeed TableFeedPerRotation SpiralPitchFactor
CTPositionSequence TablePosition DataCollectionCenterPatient ReconstructionTargetCenterPatient CTGeometrySequence
DistanceSourceToDetector DistanceSourceToDataCollectionCenter CTReconstructionSequence ReconstructionAlgorithm
ConvolutionKernel ConvolutionKernelGroup ReconstructionDiameter ReconstructionFieldOfView ReconstructionPixelSpacing
ReconstructionAngle ImageFilter CTExposureSequence ExposureTimeInms XRayTubeCurrentInmA ExposureInmAs
ExposureModulationType EstimatedDoseSaving CTDIvol CTXRayDetailsSequence KVP FocalSpots FilterType FilterMaterial
CalciumScoringMassFactorPatient
"""
ENHANCED_MR = """
MRImageFrameTypeSequence MRTimingAndRelatedParametersSequence RepetitionTime FlipAngle EchoTrainLength
RFEchoTrainLength GradientEchoTrainLength SpecificAbsorptionRateSequence SpecificAbsorptionRateDefinition
SpecificAbsorptionRateValue GradientOutput GradientOutputType OperatingModeSequence OperatingModeType OperatingMode
MRFOVGeometrySequence InPlanePhaseEncodingDirection MRAcquisitionFrequencyEncodingSteps
MRAcquisitionPhaseEncodingStepsInPlane MRAcquisitionPhaseEncodingStepsOutOfPlane PercentSampling
PercentPhaseFieldOfView MREchoSequence EffectiveEchoTime MRModifierSequence InversionRecovery InversionTimes
FlowCompensation FlowCompensationDirection Spoiling T2Preparation SpectrallySelectedExcitation SpatialPresaturation
PartialFourier PartialFourierDirection ParallelAcquisition ParallelAcquisitionTechnique ParallelReductionFactorInPlane
ParallelReductionFactorOutOfPlane ParallelReductionFactorSecondInPlane MRImagingModifierSequence MagnetizationTransfer
BloodSignalNulling Tagging TransmitterFrequency PixelBandwidth MRReceiveCoilSequence ReceiveCoilType
QuadratureReceiveCoil MRTransmitCoilSequence TransmitCoilType MRAveragesSequence NumberOfAverages MRDiffusionSequence
MultiPlanarExcitation
DiffusionBValue DiffusionDirectionality DiffusionGradientDirectionSequence DiffusionGradientOrientation
DiffusionAnisotropyType MRVelocityEncodingSequence VelocityEncodingMinimumValue VelocityEncodingMaximumValue
ResonantNucleus KSpaceFiltering MagneticFieldStrength ApplicableSafetyStandardAgency PulseSequenceName
MRAcquisitionType EchoPulseSequence MultipleSpinEcho PhaseContrast TimeOfFlightContrast SteadyStatePulseSequence
EchoPlanarPulseSequence SaturationRecovery SpectrallySelectedSuppression OversamplingPhase GeometryOfKSpaceTraversal
SegmentedKSpaceTraversal RectilinearPhaseEncodeReordering CoverageOfKSpace NumberOfKSpaceTrajectories
"""
ENHANCED_PT = """
PETFrameTypeSequence PETFrameAcquisitionSequence TableHeight GantryDetectorTilt DataCollectionDiameter
PETPositionSequence TablePosition PETReconstructionSequence ReconstructionType ReconstructionAlgorithm
IterativeReconstructionMethod NumberOfIterations NumberOfSubsets ReconstructionDiameter ReconstructionFieldOfView
PETFrameCorrectionFactorsSequence PrimaryPromptsCountsAccumulated SliceSensitivityFactor DecayFactor DeadTimeFactor
ScatterFractionFactor DecayCorrected AttenuationCorrected ScatterCorrected DeadTimeCorrected RandomsCorrected
GantryMotionCorrected PatientMotionCorrected CountLossNormalizationCorrected SensitivityCalibrated
RadiopharmaceuticalInformationSequence RadionuclideCodeSequence RadionuclideTotalDose RadionuclideHalfLife
RadionuclidePositronFraction RadiopharmaceuticalStartDateTime Units TimeOfFlightInformationUsed
NonUniformRadialSamplingCorrected DetectorNormalizationCorrection TypeOfDetectorMotion TransverseDetectorSeparation
AxialDetectorDimension TableMotion ViewCodeSequence SliceProgressionDirection DecayCorrectionDateTime
"""
SEG = """
SegmentationType:1 SegmentationFractionalType MaximumFractionalValue SegmentSequence:1 SegmentNumber:1 SegmentLabel:1
SegmentAlgorithmType:1 SegmentAlgorithmName:1 SegmentedPropertyCategoryCodeSequence:1
SegmentedPropertyTypeCodeSequence:1 SegmentedPropertyTypeModifierCodeSequence RecommendedDisplayCIELabValue
SegmentIdentificationSequence ReferencedSegmentNumber:1 SegmentsOverlap ContentLabel:1 ContentDescription:2
ContentCreatorName:2
"""
RT_SERIES = """
OperatorsName:2 ReviewDate:2 ReviewTime:2 ReviewerName:2 ApprovalStatus:1 ReferencedStructureSetSequence
ReferencedDoseSequence ReferencedRTPlanSequence
"""
RTSTRUCT = """
StructureSetLabel:1 StructureSetName StructureSetDate:2 StructureSetTime:2 ReferencedFrameOfReferenceSequence
FrameOfReferenceUID:1 RTReferencedStudySequence RTReferencedSeriesSequence SeriesInstanceUID:1 ContourImageSequence
StructureSetROISequence ROINumber:1 ReferencedFrameOfReferenceUID:1 ROIName:2 ROIVolume ROIGenerationAlgorithm:2
ROIContourSequence ROIDisplayColor ReferencedROINumber:1 ContourSequence ContourNumber AttachedContours
ContourGeometricType:1 ContourSlabThickness ContourOffsetVector NumberOfContourPoints:1 ContourData:1
RTROIObservationsSequence ObservationNumber:1 RTROIInterpretedType:2 ROIInterpreter:2 ROIPhysicalPropertiesSequence
ROIPhysicalProperty:1 ROIPhysicalPropertyValue:1 RTROIIdentificationCodeSequence
"""
RTDOSE = """
DoseUnits:1 DoseType:1 SpatialTransformOfDose GridFrameOffsetVector DoseGridScaling TissueHeterogeneityCorrection
DoseSummationType:1 NormalizationPoint FrameIncrementPointer ReferencedRTPlanSequence ReferencedFractionGroupSequence
ReferencedFractionGroupNumber ReferencedBeamSequence ReferencedBeamNumber DVHSequence DVHReferencedROISequence
DVHROIContributionType ReferencedROINumber:1 DVHType:1 DVHDoseScaling:1 DVHVolumeUnits:1 DVHNumberOfBins:1 DVHData:1
DVHMinimumDose DVHMaximumDose DVHMeanDose DVHNormalizationPoint DVHNormalizationDoseValue
"""
RTPLAN = """
RTPlanLabel:1 RTPlanDate:2 RTPlanTime:2 RTPlanGeometry:1 RTPlanRelationship:1 DoseReferencePointCoordinates
ReferencedRTPlanSequence PlanIntent DoseReferenceSequence DoseReferenceNumber:1 DoseReferenceUID
DoseReferenceStructureType:1 DoseReferenceType:1 ReferencedROINumber TargetPrescriptionDose TargetMinimumDose
TargetMaximumDose OrganAtRiskMaximumDose FractionGroupSequence FractionGroupNumber:1 NumberOfFractionsPlanned:2
NumberOfBeams:1 NumberOfBrachyApplicationSetups:1 ReferencedBeamSequence ReferencedBeamNumber:1 BeamDose BeamMeterset
BeamDoseSpecificationPoint PatientSetupSequence PatientSetupNumber:1 SetupTechnique BeamSequence BeamNumber:1
BeamType:1 RadiationType:2 HighDoseTechniqueType SourceAxisDistance PrimaryDosimeterUnit TreatmentDeliveryType
NumberOfWedges:1 NumberOfCompensators NumberOfBoli NumberOfBlocks BeamLimitingDeviceSequence
RTBeamLimitingDeviceType:1 SourceToBeamLimitingDeviceDistance NumberOfLeafJawPairs:1 LeafPositionBoundaries
NumberOfControlPoints:1 FinalCumulativeMetersetWeight ControlPointSequence ControlPointIndex:1
CumulativeMetersetWeight:2 NominalBeamEnergy DoseRateSet BeamLimitingDevicePositionSequence LeafJawPositions:1
GantryAngle GantryRotationDirection BeamLimitingDeviceAngle BeamLimitingDeviceRotationDirection PatientSupportAngle
PatientSupportRotationDirection TableTopEccentricAngle TableTopEccentricRotationDirection TableTopVerticalPosition
TableTopLongitudinalPosition TableTopLateralPosition IsocenterPosition SourceToSurfaceDistance
ReferencedPatientSetupNumber ReferencedDoseReferenceSequence ReferencedDoseReferenceNumber
CumulativeDoseReferenceCoefficient TreatmentMachineName:2 ReferencedStructureSetSequence ToleranceTableSequence
ToleranceTableNumber:1 ReferencedToleranceTableNumber GantryPitchAngle
"""

_RT = [PATIENT, STUDY, SERIES, EQUIPMENT, INSTANCE, CODE, REFERENCES, RT_SERIES]
_ENHANCED = [*IMAGE_OBJECT, ENHANCED_EQUIPMENT, FRAME_OF_REFERENCE, FUNCTIONAL_GROUPS, CONTRAST]
_PROJECTION = [*IMAGE_OBJECT, EXPOSURE, PROJECTION, CONTRAST, "AcquisitionContextSequence:2"]

AT_RISK = frozenset(["US", "SC", "XA", "CR", "DX", "MG", "NM"])  # classes whose every frame is looked at for burned-in text

# classes whose objects have to say whether text is burned in (PS3.3 C.8.11.3, C.8.6.3: type 1), after STORAGE
SAY_BURNED_IN = frozenset(["1.1", "1.1.1", "1.2", "1.2.1", "7.1", "7.2", "7.3", "7.4"])

# SOP class UID (after 1.2.840.10008.5.1.4.1.1.) -> name, modules
CLASSES: dict[str, tuple[str, list[str]]] = {
    "1": ("CR", _PROJECTION),
    "1.1": ("DX", _PROJECTION),
    "1.1.1": ("DX", _PROJECTION),
    "1.2": ("MG", _PROJECTION),
    "1.2.1": ("MG", _PROJECTION),
    "2": ("CT", [*IMAGE_OBJECT, FRAME_OF_REFERENCE, PLANE, CONTRAST, CT]),
    "2.1": ("CT enhanced", [*_ENHANCED, CT, ENHANCED_CT]),
    "2.2": ("CT enhanced", [*_ENHANCED, CT, ENHANCED_CT]),
    "3": ("US", [*IMAGE_OBJECT, US, MULTI_FRAME, CONTRAST]),
    "3.1": ("US", [*IMAGE_OBJECT, US, MULTI_FRAME, CONTRAST]),
    "4": ("MR", [*IMAGE_OBJECT, FRAME_OF_REFERENCE, PLANE, CONTRAST, MR]),
    "4.1": ("MR enhanced", [*_ENHANCED, MR, ENHANCED_MR]),
    "4.3": ("MR enhanced", [*_ENHANCED, MR, ENHANCED_MR]),
    "4.4": ("MR enhanced", [*_ENHANCED, MR, ENHANCED_MR]),
    "6": ("US", [*IMAGE_OBJECT, US, MULTI_FRAME, CONTRAST]),
    "6.1": ("US", [*IMAGE_OBJECT, US, MULTI_FRAME, CONTRAST]),
    "7": ("SC", [*IMAGE_OBJECT, SC]),
    **{f"7.{n}": ("SC", [*IMAGE_OBJECT, SC, MULTI_FRAME, "PageNumberVector FrameLabelVector"]) for n in (1, 2, 3, 4)},
    "12.1": ("XA", [*IMAGE_OBJECT, MULTI_FRAME, CONTRAST, XA]),
    "12.2": ("XA", [*IMAGE_OBJECT, MULTI_FRAME, CONTRAST, XA]),
    "20": ("NM", [*IMAGE_OBJECT, FRAME_OF_REFERENCE, MULTI_FRAME, NM]),
    "66.4": ("SEG", [*_ENHANCED, SEG]),
    "128": ("PT", [*IMAGE_OBJECT, FRAME_OF_REFERENCE, PLANE, PET]),
    "128.1": ("PT enhanced", [*_ENHANCED, PET, ENHANCED_PT]),
    "130": ("PT enhanced", [*_ENHANCED, PET, ENHANCED_PT]),
    "481.2": ("RTDOSE", [*_RT, IMAGE, PIXELS, FRAME_OF_REFERENCE, PLANE, RTDOSE]),
    "481.3": ("RTSTRUCT", [*_RT, FRAME_OF_REFERENCE, RTSTRUCT]),
    "481.5": ("RTPLAN", [*_RT, FRAME_OF_REFERENCE, RTPLAN]),
}
STORAGE = "1.2.840.10008.5.1.4.1.1."


def words(sop_class: str) -> dict[str, int]:
    """The keywords that objects of a SOP class may keep, each with its type: the strictest of its modules.  KeyError:
    none."""
    types: dict[str, int] = {}
    for module in CLASSES[sop_class.removeprefix(STORAGE)][1]:
        for word in module.split():
            keyword, _, kind = word.partition(":")
            types[keyword] = min(types.get(keyword, 3), int(kind or 3))
    return types


def name(sop_class: str) -> str:
    """The short name of a supported SOP class, "" for any other."""
    entry = CLASSES.get(sop_class.removeprefix(STORAGE)) if sop_class.startswith(STORAGE) else None
    return entry[0] if entry else ""
